//! Relays that ask who is there.

use crate::common::{Certificate, InProcessRelay, soon, until};
use streamlink_moq::{LinkSettings, MoqAddress, Relays, Token};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// Answers the questions of a relay: admits who presents the token, or a certificate.
async fn serve_questions(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut request = Vec::new();
            let body = loop {
                let mut chunk = [0; 4096];
                let length = stream.read(&mut chunk).await.unwrap_or(0);
                request.extend(&chunk[..length]);
                let text = String::from_utf8_lossy(&request).to_lowercase();
                let wanted = text.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
                let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
                if length == 0 || wanted.is_some_and(|wanted: usize| body.len() >= wanted) {
                    break body;
                }
            };
            let is_admitted = body.contains("jwt=g00d") || body.contains("\"tls\":{");
            let grant = r#"{"publish":["**"],"subscribe":["**"]}"#;
            let (status, answer) = if is_admitted { ("200 OK", grant) } else { ("403 Forbidden", "{}") };
            let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n");
            let answer = format!("{head}content-length: {}\r\n\r\n{answer}", answer.len());
            let _ = stream.write_all(answer.as_bytes()).await; // the relay sees that
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relay_admits_by_token_and_by_client_certificate() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let questions = format!("http://127.0.0.1:{}/", listener.local_addr().unwrap().port());
    tokio::spawn(serve_questions(listener));
    let certificate = Certificate::new();
    let node = Certificate::new();
    let relay = InProcessRelay::start_with(&certificate, |config| {
        config.auth.public = Vec::new();
        config.auth.url = Some(questions.parse().unwrap());
        config.listen.tls.root = vec![node.certificate.clone()];
    })
    .await;
    let connect = |settings: LinkSettings, address: &MoqAddress| {
        Relays::connect(address.relays(), &settings, address.token()).unwrap()
    };
    let address: MoqAddress = format!("moq://{}/live/cam", relay.address()).parse().unwrap();
    let with_token: MoqAddress = format!("moq://{}/live/cam?token=g00d", relay.address()).parse().unwrap();

    let by_address = connect(certificate.settings(), &with_token);
    assert!(soon("connection by a token in the address", by_address.links()[0].connected()).await);
    let by_setting = connect(certificate.settings().token(Token::new("g00d")), &address);
    assert!(soon("connection by a token as a setting", by_setting.links()[0].connected()).await);
    let by_certificate = connect(certificate.settings().client_certificate(&node.certificate, &node.key), &address);
    assert!(soon("connection by a client certificate", by_certificate.links()[0].connected()).await);

    for settings in [certificate.settings(), certificate.settings().token(Token::new("s3cret"))] {
        let refused = connect(settings, &address);
        let link = &refused.links()[0];
        until("refusal", || link.status().last_error.is_some() && !link.status().is_connected()).await;
        let status = link.status();
        assert!(!format!("{status:?}").contains("s3cret"), "{status:?}");
        println!("{status:?}");
    }
}
