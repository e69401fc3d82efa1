//! Code point and congestion control of the connections to players, as the kernel reports them.

use std::process::Command;
use streamlink_core::{Output, Source, StreamKey};
use streamlink_tests::{
    eventually,
    rig::{Rig, free_port},
    rtsp::SDP,
};

/// Starts a flow that plays, and waits until the kernel shows the wanted values for its connection at the server's port.
fn connection_has(player: Source, port: u16) {
    let player = Rig::start(player, vec![Output::tap("tap").into()]);
    let filter = format!("sport = :{port}");
    let mut listed = String::new();
    eventually("a marked connection", || {
        let said = Command::new("ss").args(["-Htni", "--tos", "state", "established"]).args(filter.split(' ')).output();
        listed = String::from_utf8(said.unwrap().stdout).unwrap();
        (listed.contains("tos:0xb8") && listed.contains(" reno ")).then_some(())
    });
    player.stop();
}

#[test]
fn rtmp_players_get_code_point_and_congestion_control() {
    let port = free_port();
    let key = StreamKey::new("KEY").unwrap();
    let address = format!("127.0.0.1:{port}");
    let output = Output::rtmp_pull("out", &address, "live").key(key.clone()).dscp(46).congestion("reno");
    let server = Rig::start(Source::app_rtmp("in"), vec![output.into()]);
    connection_has(Source::rtmp_pull("in", &format!("rtmp://{address}/live"), key).into(), port);
    server.stop();
}

#[test]
fn rtsp_players_get_code_point_and_congestion_control() {
    let port = free_port();
    let url = format!("rtsp://127.0.0.1:{port}/live");
    let output = Output::from_url("out", &format!("{url}?mode=listener&dscp=46&congestion=reno"));
    let server = Rig::start(Source::app_rtsp("in"), vec![output]);
    server.running.app_source("in").unwrap().set_sdp(SDP).unwrap();
    connection_has(Source::from_url("in", &format!("{url}?transport=tcp")), port);
    server.stop();
}
