// The C++ wrapper: owners, exceptions, media and events.
#include "streamlink.hpp"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <type_traits>

using namespace std::chrono_literals;

#define CHECK(condition)                                                                                              \
    do {                                                                                                              \
        if (!(condition)) {                                                                                           \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                      \
            std::abort();                                                                                             \
        }                                                                                                             \
    } while (0)

static_assert(std::is_nothrow_move_constructible_v<streamlink::flow> && !std::is_copy_constructible_v<streamlink::flow>);
static_assert(std::is_nothrow_move_constructible_v<streamlink::engine> && std::is_copy_constructible_v<streamlink::packet>);

template <typename Function> streamlink_status status_of(Function function)
{
    try {
        function();
    } catch (const streamlink::error &failure) {
        CHECK(failure.what()[0] != '\0');
        return failure.status();
    }
    return STREAMLINK_STATUS_OK;
}

/// Waits for something that other threads do.
template <typename Condition> void wait_for(Condition condition)
{
    while (!condition()) {
        std::this_thread::sleep_for(1ms);
    }
}

/// Bytes that are not copied; they are given back once, also where nobody takes them.
void borrowed_packets(streamlink::engine &engine)
{
    using streamlink::packet;
    static const char bytes[] = "borrowed";
    std::atomic<int> released{0};
    streamlink::flow_builder builder("borrowed", 1'000'000'000);
    streamlink::flow flow = engine.start(builder.source({"in", "app://datagrams"}).output({"tap", "tap:"}));
    auto source = flow.app_source("in");
    auto tap = flow.tap("tap");
    CHECK(tap.fd() >= 0);
    const auto release = [&] { released++; };
    CHECK(source.push_borrowed(STREAMLINK_PACKET_KIND_DATAGRAM, bytes, sizeof bytes, release) == STREAMLINK_STATUS_OK);
    packet got = tap.next();
    CHECK(got.data() == reinterpret_cast<const std::uint8_t *>(bytes) && released == 0);
    // Refused: it is given back at once. The other one is still in the flow.
    CHECK(source.push_borrowed(STREAMLINK_PACKET_KIND_RTMP_AUDIO, bytes, 1, release) == STREAMLINK_STATUS_BAD_PACKET);
    wait_for([&] { return released == 1; });
    // No packet is made of it: it stays the caller's.
    CHECK(status_of([&] { packet::borrow(static_cast<streamlink_packet_kind>(99), bytes, 1, release); }) ==
          STREAMLINK_STATUS_INVALID_ARGUMENT);
    CHECK(status_of([&] { packet::borrow(STREAMLINK_PACKET_KIND_RTSP, bytes, 1, release, 256); }) ==
          STREAMLINK_STATUS_INVALID_ARGUMENT);
    CHECK(released == 1);
    std::vector<std::uint8_t> kept(188, 7);
    const auto *place = kept.data();
    CHECK(source.push(packet::keep(STREAMLINK_PACKET_KIND_DATAGRAM, std::move(kept))) == STREAMLINK_STATUS_OK);
    got = tap.next();
    CHECK(got.data() == place && got.size() == 188 && got.data()[187] == 7);
    CHECK(source.push(packet::keep(STREAMLINK_PACKET_KIND_DATAGRAM, std::string("text"))) == STREAMLINK_STATUS_OK);
    got = tap.next();
    CHECK(std::memcmp(got.data(), "text", 4) == 0);
    flow.stop();
    wait_for([&] { return released == 2; });
}

/// Sources come, go and are switched to; ranges over the statistics; JSON.
void live_sources(streamlink::engine &engine)
{
    streamlink::flow_builder builder("live", 1'000'000'000);
    builder.failover(STREAMLINK_FAILOVER_POLICY_STAY, 0ms, 60s);
    streamlink::flow flow = engine.start(builder.source({"in", "app://datagrams"}).output({"tap", "tap:"}));
    flow.add_source({"spare", "app://datagrams"});
    auto first = flow.app_source("in"), second = flow.app_source("spare");
    auto tap = flow.tap("tap");
    const auto one = [](char number) {
        return streamlink::packet::keep(STREAMLINK_PACKET_KIND_DATAGRAM, std::string(1, number));
    };
    // A tap that the machine holds up for a second loses packets, which are then pushed again.
    const auto passes = [&](streamlink::app_source &source, char number) {
        for (;;) {
            CHECK(source.push(one(number)) == STREAMLINK_STATUS_OK);
            if (const auto got = tap.next(2s)) {
                CHECK(*got.data() != 'b' && *got.data() != 'd');
                if (*got.data() == static_cast<std::uint8_t>(number)) {
                    return;
                }
            }
        }
    };
    passes(first, 'a');
    CHECK(second.push(one('b')) == STREAMLINK_STATUS_OK);
    flow.switch_to("spare");
    passes(second, 'c');
    CHECK(first.push(one('d')) == STREAMLINK_STATUS_OK);
    passes(second, 'e');
    const auto stats = flow.stats();
    CHECK(stats.regions().size() == 0 && status_of([&] { stats.legs(0); }) == STREAMLINK_STATUS_NOT_FOUND);
    std::vector<std::string> names;
    for (const auto &endpoint : stats) {
        names.emplace_back(endpoint.name);
        CHECK(endpoint.enabled);
    }
    CHECK((names == std::vector<std::string>{"in", "spare", "tap"}) && stats.flow() == "live");
    CHECK(stats.players(2).empty() && stats.pids(0).size() == 0 && stats.tracks(2).empty());
    CHECK(std::count_if(stats.begin(), stats.end(), [](const auto &endpoint) { return endpoint.active != 0; }) == 1);
    CHECK(stats.to_json().find("{\"name\":\"live\"") == 0);
    CHECK(status_of([&] { stats.players(3); }) == STREAMLINK_STATUS_NOT_FOUND);
    CHECK(flow.enable_source("in", false) == STREAMLINK_APPLIED_RECONNECT);
    CHECK(flow.enable_source("in", false) == STREAMLINK_APPLIED_IN_PLACE);
    CHECK(flow.replace_source("in", {"other", "app://datagrams"}) == STREAMLINK_APPLIED_RECONNECT);
    CHECK(flow.edit_source("other", "description", "another") == STREAMLINK_APPLIED_IN_PLACE);
    flow.remove_source("other");
    CHECK(status_of([&] { flow.remove_source("spare"); }) == STREAMLINK_STATUS_INVALID_CONFIG);
    CHECK(flow.failover(STREAMLINK_FAILOVER_POLICY_PREFER, 1s, 200ms) == STREAMLINK_APPLIED_IN_PLACE);
    CHECK(flow.enable_output("tap", false) == STREAMLINK_APPLIED_RECONNECT);
    CHECK(flow.configuration().find("\"loss_threshold\": 200") != std::string::npos);
    const std::string again = flow.configuration_with_secrets();
    flow.stop();
    flow = engine.start_json(again);
    CHECK(flow.stats().size() == 2 && !flow.stats()[1].enabled);
}

/// The flows of an engine, from the outside.
void flows_and_events(streamlink::engine &engine)
{
    auto events = engine.events();
    auto told = engine.events();
    std::atomic<int> started{0};
    told.on_event([&](const streamlink::event &one) { started += one.kind() == STREAMLINK_EVENT_KIND_FLOW_STARTED; });
    const streamlink::flow_configs configs(R"([
        {"name": "a", "max_bandwidth": "1M", "sources": [{"name": "in", "url": "rtmp://:0/live/KEY?failover=true"}]},
        {"name": "b", "max_bandwidth": "1M", "sources": [{"name": "in", "url": "app://rtp"}]}])");
    CHECK(configs.size() == 2 && configs.name(1) == "b" && configs.name(2).empty());
    streamlink::flow first = engine.start(configs, 0), second = engine.start(configs, 1);
    const auto names = engine.flows();
    CHECK(std::find(names.begin(), names.end(), "a") != names.end());
    const auto [server, key] = first.input_server_and_key("in");
    CHECK(key == "KEY" && server.find("rtmp://") == 0 && first.input_address("in") == server + "/KEY");
    CHECK(first.input_server_and_key("in-backup").first == server);
    {
        streamlink::flow other = engine.find("b");
        CHECK(other.name() == "b" && other.stats().size() == 1);
    }
    CHECK(second.stats()[0].state == STREAMLINK_STATE_WAITING); // it goes on
    std::vector<std::string> flows;
    while (flows.size() < 2) {
        const auto one = events.next(60s);
        CHECK(one && one->at() > std::chrono::system_clock::now() - 1h && one->at() < std::chrono::system_clock::now() + 1h);
        CHECK(one->to_json().find("{\"flow\":\"") == 0);
        if (one->kind() == STREAMLINK_EVENT_KIND_FLOW_STARTED) {
            flows.emplace_back(one->flow());
        }
    }
    CHECK((flows == std::vector<std::string>{"a", "b"}));
    wait_for([&] { return started == 2; });
    CHECK(engine.stats_json().find("\"name\":\"b\"") != std::string::npos);
    CHECK(status_of([&] { streamlink::flow_configs("[{}]"); }) == STREAMLINK_STATUS_INVALID_CONFIG);
    CHECK(status_of([&] { engine.find("nobody"); }) == STREAMLINK_STATUS_NOT_FOUND);
    CHECK(status_of([&] { engine.add_remote_region("eu", "moq://h/p"); }) == STREAMLINK_STATUS_UNSUPPORTED);
}

/// Decides about callers; one that throws refuses.
void access_function()
{
    std::atomic<int> asked{0};
    streamlink::engine engine(
        streamlink::engine_options().threads(2).public_host("media.example.com").region_address("here", "127.0.0.1").access(
            [&](const streamlink::access_request &request) {
                asked++;
                CHECK(request.flow() == "guarded" && request.endpoint() == "in" && request.publishes());
                CHECK(request.protocol() == "SRT" && request.app().empty());
                if (request.stream_id() == "good") {
                    return streamlink::access_reply::accept();
                }
                if (request.stream_id() == "bad") {
                    return streamlink::access_reply::reject(1401);
                }
                throw std::runtime_error("no decision");
            }));
    streamlink::flow_builder builder("guarded", 20'000'000);
    streamlink::flow flow = engine.start(builder.source({"in", "srt://:0?mode=listener"}));
    const std::string address = flow.input_address("in");
    CHECK(address.find("srt://media.example.com:") == 0);
    const std::string local = "srt://127.0.0.1" + address.substr(address.rfind(':')) + "?mode=caller&streamid=";
    const auto call = [&](const std::string &id) {
        streamlink::flow_builder from(id, 20'000'000);
        return engine.start(from.source({"in", "app://datagrams"}).output({"out", local + id}));
    };
    // On a machine that is too busy to answer in time, a caller is refused for that, and calls again.
    const auto find = [](streamlink::flow &caller, std::int32_t kind, std::string_view detail) {
        for (;;) {
            auto event = caller.next_event(60s);
            CHECK(event);
            if (event->kind() == kind && event->detail().find(detail) != std::string_view::npos) {
                return event;
            }
        }
    };
    // One after another: a source has one sender.
    streamlink::flow bad = call("bad");
    CHECK(!find(bad, STREAMLINK_EVENT_KIND_OUTPUT_RETRYING, "1401")->reason().empty());
    streamlink::flow silent = call("silent");
    find(silent, STREAMLINK_EVENT_KIND_OUTPUT_RETRYING, "1500");
    streamlink::flow good = call("good");
    find(good, STREAMLINK_EVENT_KIND_OUTPUT_CONNECTED, "");
    CHECK(asked >= 3);
}

/// The log goes to a function, which may throw, and be replaced.
void log_function()
{
    std::atomic<int> lines{0};
    streamlink::log_to(STREAMLINK_LOG_LEVEL_INFO, [&](std::int32_t, std::string_view, std::string_view message) {
        CHECK(!message.empty());
        lines++;
        throw 7;
    });
    streamlink::engine engine;
    streamlink::flow_builder builder("logged", 1'000'000);
    streamlink::flow flow = engine.start(builder.source({"in", "app://rtp"}));
    wait_for([&] { return lines > 0; });
    streamlink::log_to(STREAMLINK_LOG_LEVEL_OFF, nullptr);
}

static void sdp_of_media(streamlink::engine &engine)
{
    streamlink::flow_builder builder("sdp", 1'000'000);
    streamlink::flow flow = engine.start(builder.source({"in", "app://rtsp"}).output({"tap", "tap:"}));
    CHECK(!flow.sdp());
    auto source = flow.app_source("in");
    source.set_sdp("v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n");
    const std::string sdp = flow.sdp().value();
    CHECK(sdp.find("v=0\r\n") == 0 && sdp.find("a=rtpmap:96 H264/90000\r\n") != std::string::npos);
    CHECK(streamlink_flow_sdp(nullptr, nullptr, nullptr) == STREAMLINK_STATUS_INVALID_ARGUMENT);
    // Media of other families has none.
    CHECK(!engine.start_json(R"({"name": "no sdp", "max_bandwidth": "1M", "sources": [{"name": "in", "url": "app://rtp"}]})").sdp());
}

int main()
{
    streamlink_engine_options options;
    STREAMLINK_INIT(options);
    options.threads = 2;
    streamlink::engine engine(options);

    streamlink::flow_builder wrong("", 0);
    wrong.source({"in", "srt://:9000"}).output(streamlink::endpoint("out", "rtp://192.0.2.1:5004").set("wings", "2"));
    try {
        engine.start(wrong);
        CHECK(false);
    } catch (const streamlink::error &failure) {
        CHECK(failure.status() == STREAMLINK_STATUS_INVALID_CONFIG && failure.field() == "name");
        CHECK(std::string(failure.what()).find("outputs[0].wings") != std::string::npos);
        CHECK(failure.errors().size() == 4 && failure.errors()[0].field == "name");
        CHECK(failure.errors()[2].field == "outputs[0].wings" && failure.errors()[2].line == 0);
        CHECK(failure.errors()[2].kind == STREAMLINK_CONFIG_ERROR_KIND_UNKNOWN_SETTING);
    }
    CHECK(status_of([&] { engine.start_json("{"); }) == STREAMLINK_STATUS_INVALID_CONFIG);

    streamlink::flow_builder builder("wrapper", 1'000'000'000);
    builder.source({"in", "app://datagrams"}).source({"spare", "app://datagrams"}).output({"tap", "tap:"});
    builder.failover(STREAMLINK_FAILOVER_POLICY_STAY, 0ms, 300ms).coalesce(1ms);
    builder.bandwidth_policy(STREAMLINK_BANDWIDTH_POLICY_WARN);
    CHECK(builder.to_json().find("\"spare\"") != std::string::npos);
    streamlink::flow flow = engine.start(builder);
    CHECK(flow.event_fd() >= 0);

    auto source = flow.app_source("in");
    auto tap = flow.tap("tap");
    CHECK(!tap.next(0ms) && !tap.ended());
    const char payload[] = "payload";
    const auto packet = streamlink::packet::copy(STREAMLINK_PACKET_KIND_DATAGRAM, payload, sizeof payload);
    CHECK(source.push(packet) == STREAMLINK_STATUS_OK);
    const streamlink::packet got = tap.next();
    const streamlink::packet again = got;
    CHECK(again.size() == sizeof payload && again.data() == packet.data() && again.kind() == packet.kind());

    auto event = flow.next_event();
    CHECK(event && event->kind() == STREAMLINK_EVENT_KIND_FLOW_STARTED && event->endpoint().empty());
    event = flow.next_event(30s);
    CHECK(event && event->kind() == STREAMLINK_EVENT_KIND_SOURCE_CONNECTED && event->endpoint() == "in");
    CHECK(!event->sentence().empty());

    flow.add_output({"calls", "tap:"});
    flow.edit_output("calls", "description", "for the function");
    std::atomic<int> seen{0}, stopped{0};
    auto calls = flow.tap("calls");
    calls.for_each([&](streamlink::packet_view one) {
        CHECK(one.size() == sizeof payload && streamlink::packet(one).data() == one.data());
        seen++;
    });
    flow.on_event([&](const streamlink::event &one) {
        if (one.kind() == STREAMLINK_EVENT_KIND_FLOW_STOPPED) {
            std::this_thread::sleep_for(50ms); // meanwhile another flow takes its place
            stopped++;
        }
    });
    CHECK(source.push(streamlink::packet(packet)) == STREAMLINK_STATUS_OK);
    while (seen == 0) {
        std::this_thread::sleep_for(1ms);
    }
    const auto stats = flow.stats();
    CHECK(stats.size() == 4 && stats[0].active && stats[0].packets == 2 && std::string(stats[3].name) == "calls");
    CHECK(status_of([&] { stats.player(3, 0); }) == STREAMLINK_STATUS_NOT_FOUND);
    CHECK(engine.metrics().find("wrapper") != std::string::npos);
    CHECK(streamlink::allowed_outputs(STREAMLINK_INPUT_RTP).size() == 4);
    flow.stop();
    CHECK(status_of([&] { flow.add_output({"late", "tap:"}); }) == STREAMLINK_STATUS_STOPPED);
    flow = engine.start_json(R"({"name": "next", "max_bandwidth": 1000000, "sources": [{"name": "in", "url": "app://rtp"}]})");
    CHECK(stopped == 1);
    CHECK(flow.name() == "next");

    borrowed_packets(engine);
    live_sources(engine);
    flows_and_events(engine);
    sdp_of_media(engine);
    access_function();
    log_function();
    CHECK(!streamlink::settings().empty() && streamlink::settings()[0].name == std::string("name"));
    std::puts("ok");
}
