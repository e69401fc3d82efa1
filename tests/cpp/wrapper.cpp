// The C++ wrapper: owners, exceptions, media and events.
#include "streamlink.hpp"

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
    CHECK(streamlink::allowed_outputs(STREAMLINK_INPUT_RTP).size() == 2);
    flow.stop();
    CHECK(status_of([&] { flow.add_output({"late", "tap:"}); }) == STREAMLINK_STATUS_STOPPED);
    flow = engine.start_json(R"({"name": "next", "max_bandwidth": 1000000, "sources": [{"name": "in", "url": "app://rtp"}]})");
    CHECK(stopped == 1);
    std::puts("ok");
}
