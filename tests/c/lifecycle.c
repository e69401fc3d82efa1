/* The life of engines, flows, taps and packets through the C ABI. Compiles as C99 and as C++. */
#include "check.h"

#include <poll.h>

static void library_version(void)
{
    char text[32];
#if !STREAMLINK_VERSION_CHECK(0, 1, 0) || STREAMLINK_VERSION_CHECK(9999, 0, 0)
#error "the version of the header"
#endif
    CHECK(streamlink_abi_version() == STREAMLINK_VERSION_NUMBER);
    snprintf(text, sizeof text, "%d.%d.%d", STREAMLINK_VERSION_MAJOR, STREAMLINK_VERSION_MINOR,
             STREAMLINK_VERSION_PATCH);
    CHECK(strcmp(text, streamlink_version_string()) == 0);
}

static void engines(void)
{
    uint32_t threads;
    streamlink_engine *engine = NULL;
    streamlink_engine_options options;
    streamlink_region regions[2];
    streamlink_text *metrics = NULL;
    for (threads = 0; threads < 3; threads++) {
        STREAMLINK_INIT(options);
        options.threads = threads;
        OK(streamlink_engine_create(&options, &engine, &error));
        streamlink_engine_destroy(engine);
    }
    OK(streamlink_engine_create(NULL, &engine, &error));
    OK(streamlink_engine_metrics(engine, &metrics, &error));
    CHECK(strstr(streamlink_text_data(metrics), "# EOF") != NULL);
    CHECK(streamlink_text_length(metrics) == strlen(streamlink_text_data(metrics)));
    streamlink_text_free(metrics);
    streamlink_engine_destroy(engine);

    STREAMLINK_INIT(options);
    STREAMLINK_INIT(regions[0]);
    regions[0].name = "here";
    regions[0].address = "127.0.0.1";
    STREAMLINK_INIT(regions[1]);
    regions[1].name = "there";
    regions[1].interface_name = "lo";
    options.regions = regions;
    options.region_count = 2;
    options.public_host = "media.example.com";
    OK(streamlink_engine_create(&options, &engine, &error));
    streamlink_engine_destroy(engine);
}

static int released;

static void release(void *user)
{
    CHECK(user == &released);
    released++;
}

/* In by one end, out by the other; the bytes are the same, and borrowed ones are given back. */
static void media(void)
{
    static const uint8_t borrowed[3] = {7, 8, 9};
    streamlink_engine *engine = check_engine();
    streamlink_flow *flow = check_flow(engine, "media");
    streamlink_app_source *source = NULL;
    streamlink_tap *tap = NULL;
    streamlink_packet *packets[4], *packet = NULL, *again;
    const streamlink_packet *one;
    size_t count = 0, seen = 0;
    OK(streamlink_flow_app_source(flow, "in", &source, &error));
    OK(streamlink_flow_tap(flow, "tap", &tap, &error));
    FAILS(STREAMLINK_STATUS_TIMED_OUT, streamlink_tap_next(tap, 0, packets, 4, &count, &error));
    FAILS(STREAMLINK_STATUS_TIMED_OUT, streamlink_tap_next(tap, 10, packets, 4, &count, &error));
    check_push(source, 10);
    while (seen < 10) {
        size_t i;
        OK(streamlink_tap_next(tap, -1, packets, 4, &count, &error));
        CHECK(count >= 1 && count <= 4);
        for (i = 0; i < count; i++) {
            CHECK(streamlink_packet_length(packets[i]) == 188);
            CHECK(streamlink_packet_data(packets[i])[0] == seen);
            CHECK(streamlink_packet_kind_of(packets[i]) == STREAMLINK_PACKET_KIND_DATAGRAM);
            CHECK(streamlink_packet_time(packets[i]) == 0);
            CHECK(streamlink_packet_age_us(packets[i]) < 60u * 1000 * 1000);
            streamlink_packet_free(packets[i]);
            seen++;
        }
    }
    OK(streamlink_packet_borrow(STREAMLINK_PACKET_KIND_DATAGRAM, 0, borrowed, sizeof borrowed, release, &released,
                                &packet, &error));
    one = packet;
    CHECK(streamlink_app_source_push(source, &one, 1) == STREAMLINK_STATUS_OK);
    streamlink_packet_free(packet);
    OK(streamlink_tap_next(tap, -1, packets, 4, &count, &error));
    CHECK(count == 1 && streamlink_packet_data(packets[0]) == borrowed);
    again = streamlink_packet_clone(packets[0]);
    CHECK(streamlink_packet_data(again) == borrowed);
    streamlink_packet_free(packets[0]);
    CHECK(released == 0);
    streamlink_packet_free(again);

    /* A packet of another family, and one after the end. */
    OK(streamlink_packet_copy(STREAMLINK_PACKET_KIND_RTMP_VIDEO, 40, borrowed, 3, &packet, &error));
    CHECK(streamlink_packet_time(packet) == 40);
    CHECK(streamlink_packet_kind_of(packet) == STREAMLINK_PACKET_KIND_RTMP_VIDEO);
    one = packet;
    CHECK(streamlink_app_source_push(source, &one, 1) == STREAMLINK_STATUS_BAD_PACKET);
    OK(streamlink_packet_copy(STREAMLINK_PACKET_KIND_DATAGRAM, 0, borrowed, 3, &packets[0], &error));
    CHECK(streamlink_app_source_give(source, packets, 1) == STREAMLINK_STATUS_OK);
    OK(streamlink_flow_stop(flow, &error));
    OK(streamlink_flow_stop(flow, &error));
    CHECK(streamlink_app_source_push(source, &one, 1) == STREAMLINK_STATUS_STOPPED);
    packets[0] = streamlink_packet_clone(packet);
    CHECK(streamlink_app_source_give(source, packets, 1) == STREAMLINK_STATUS_STOPPED);
    packets[0] = streamlink_packet_clone(packet);
    CHECK(streamlink_app_source_give(NULL, packets, 1) == STREAMLINK_STATUS_INVALID_ARGUMENT);
    streamlink_packet_free(packet);
    OK(streamlink_tap_next(tap, -1, packets, 4, &count, &error));
    CHECK(count == 1);
    streamlink_packet_free(packets[0]);
    FAILS(STREAMLINK_STATUS_STOPPED, streamlink_tap_next(tap, -1, packets, 4, &count, &error));
    CHECK(released == 1);
    streamlink_tap_destroy(tap);
    streamlink_app_source_destroy(source);
    streamlink_flow_destroy(flow);
    streamlink_engine_destroy(engine);
}

/* Events in their order, by waiting and by a descriptor. */
static void events(void)
{
    streamlink_engine *engine = check_engine();
    streamlink_flow *flow = check_flow(engine, "events");
    streamlink_app_source *source = NULL;
    streamlink_event *event = NULL;
    streamlink_event_info info;
    struct pollfd fd;
    fd.fd = streamlink_flow_event_fd(flow);
    fd.events = POLLIN;
    CHECK(fd.fd >= 0 && streamlink_flow_event_fd(flow) == fd.fd);
    CHECK(poll(&fd, 1, 30000) == 1);
    OK(streamlink_flow_next_event(flow, 0, &event, &error));
    STREAMLINK_INIT(info);
    streamlink_event_get(event, &info);
    CHECK(info.kind == STREAMLINK_EVENT_KIND_FLOW_STARTED && strstr(info.sentence, "started") != NULL);
    CHECK(info.size == sizeof info && strcmp(info.endpoint, "") == 0);
    streamlink_event_free(event);
    FAILS(STREAMLINK_STATUS_TIMED_OUT, streamlink_flow_next_event(flow, 20, &event, &error));
    CHECK(poll(&fd, 1, 0) == 0);
    OK(streamlink_flow_app_source(flow, "in", &source, &error));
    check_push(source, 1);
    CHECK(poll(&fd, 1, 30000) == 1);
    OK(streamlink_flow_next_event(flow, -1, &event, &error));
    streamlink_event_get(event, &info);
    CHECK(info.kind == STREAMLINK_EVENT_KIND_SOURCE_CONNECTED && strcmp(info.endpoint, "in") == 0);
    CHECK(strcmp(info.peer, "") == 0);
    streamlink_event_free(event);
    OK(streamlink_flow_stop(flow, &error));
    OK(streamlink_flow_next_event(flow, 30000, &event, &error));
    streamlink_event_get(event, &info);
    CHECK(info.kind == STREAMLINK_EVENT_KIND_FLOW_STOPPED);
    streamlink_event_free(event);
    FAILS(STREAMLINK_STATUS_STOPPED, streamlink_flow_next_event(flow, -1, &event, &error));
    CHECK(poll(&fd, 1, 30000) == 1);
    streamlink_app_source_destroy(source);
    streamlink_flow_destroy(flow);
    streamlink_engine_destroy(engine);
}

/* A flow from a builder, changed while it runs. */
static void changes(void)
{
    streamlink_engine *engine = check_engine();
    streamlink_flow_builder *builder = NULL;
    streamlink_source *source = NULL, *backup = NULL;
    streamlink_output *output = NULL;
    streamlink_flow *flow = NULL;
    streamlink_text *text = NULL;
    streamlink_stats *stats = NULL;
    streamlink_endpoint_stats endpoint;
    OK(streamlink_source_create("venue", "srt://127.0.0.1:0?mode=listener", &source, &error));
    OK(streamlink_source_set(source, "latency", "200", &error));
    OK(streamlink_source_create("spare", "srt://127.0.0.1:0?mode=listener", &backup, &error));
    OK(streamlink_output_create("players", "srt://127.0.0.1:0?mode=listener", &output, &error));
    OK(streamlink_output_set(output, "max_players", "4", &error));
    OK(streamlink_flow_builder_create("match-day", 20u * 1000 * 1000, &builder, &error));
    OK(streamlink_flow_builder_add_source(builder, source, &error));
    OK(streamlink_flow_builder_add_source(builder, backup, &error));
    OK(streamlink_flow_builder_add_output(builder, output, &error));
    OK(streamlink_flow_builder_set_failover(builder, STREAMLINK_FAILOVER_POLICY_PREFER, 2000, 300, 0, &error));
    OK(streamlink_flow_builder_set_bandwidth_policy(builder, STREAMLINK_BANDWIDTH_POLICY_WARN, &error));
    OK(streamlink_flow_builder_set_coalesce(builder, 0, &error));
    OK(streamlink_flow_builder_set_entry_wait(builder, 1500, &error));
    OK(streamlink_flow_builder_to_json(builder, &text, &error));
    CHECK(strstr(streamlink_text_data(text), "\"prefer\"") != NULL);
    streamlink_text_free(text);
    OK(streamlink_flow_start(engine, builder, &flow, &error));
    streamlink_flow_builder_destroy(builder);
    streamlink_source_destroy(source);
    streamlink_source_destroy(backup);
    streamlink_output_destroy(output);

    OK(streamlink_flow_input_address(flow, "venue", &text, &error));
    CHECK(strncmp(streamlink_text_data(text), "srt://127.0.0.1:", 16) == 0);
    streamlink_text_free(text);
    OK(streamlink_flow_playback_url(flow, "players", &text, &error));
    CHECK(strncmp(streamlink_text_data(text), "srt://127.0.0.1:", 16) == 0);
    streamlink_text_free(text);
    FAILS(STREAMLINK_STATUS_NOT_FOUND, streamlink_flow_playback_url(flow, "nobody", &text, &error));

    {
        int32_t applied = 77;
        OK(streamlink_flow_edit_output(flow, "players", "name", "partners", &applied, &error));
        CHECK(applied == STREAMLINK_APPLIED_IN_PLACE);
    }
    OK(streamlink_flow_edit_output(flow, "partners", "description", "over the sea", NULL, &error));
    OK(streamlink_flow_edit_output(flow, "partners", "allow", "127.0.0.0/8", NULL, &error));
    OK(streamlink_flow_edit_output(flow, "partners", "max_players", "2", NULL, &error));
    FAILS(STREAMLINK_STATUS_INVALID_CONFIG, streamlink_flow_edit_output(flow, "partners", "allow", "x/8", NULL, &error));
    FAILS(STREAMLINK_STATUS_INVALID_CONFIG, streamlink_flow_edit_output(flow, "partners", "latency", "7", NULL, &error));
    FAILS(STREAMLINK_STATUS_NOT_FOUND, streamlink_flow_edit_output(flow, "players", "allow", "", NULL, &error));
    FAILS(STREAMLINK_STATUS_NOT_FOUND, streamlink_flow_kick_player(flow, "partners", "192.0.2.1:5", &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_flow_kick_player(flow, "partners", "nobody", &error));
    OK(streamlink_flow_edit_source(flow, "venue", "allow", "127.0.0.1", NULL, &error));
    FAILS(STREAMLINK_STATUS_INVALID_CONFIG,
          streamlink_flow_edit_output(flow, "partners", "add_member", "127.0.0.1:9", NULL, &error));
    FAILS(STREAMLINK_STATUS_INVALID_CONFIG,
          streamlink_flow_edit_source(flow, "venue", "remove_member", "127.0.0.1:9", NULL, &error));
    OK(streamlink_output_create("bonded", "srt://127.0.0.1:9?nodes=127.0.0.1:10", &output, &error));
    OK(streamlink_flow_add_output(flow, output, &error));
    streamlink_output_destroy(output);
    OK(streamlink_flow_edit_output(flow, "bonded", "add_member", "127.0.0.1:11?weight=3", NULL, &error));
    FAILS(STREAMLINK_STATUS_INVALID_CONFIG,
          streamlink_flow_edit_output(flow, "bonded", "add_member", "127.0.0.1:10", NULL, &error));
    OK(streamlink_flow_edit_output(flow, "bonded", "remove_member", "127.0.0.1:9", NULL, &error));
    OK(streamlink_flow_edit_output(flow, "bonded", "members", "127.0.0.1:12, 127.0.0.1:13", NULL, &error));
    OK(streamlink_flow_edit_output(flow, "bonded", "remove_member", "127.0.0.1:13", NULL, &error));
    FAILS(STREAMLINK_STATUS_INVALID_CONFIG,
          streamlink_flow_edit_output(flow, "bonded", "remove_member", "127.0.0.1:12", NULL, &error));
    FAILS(STREAMLINK_STATUS_INVALID_CONFIG, streamlink_flow_edit_output(flow, "bonded", "members", "", NULL, &error));
    OK(streamlink_flow_remove_output(flow, "bonded", &error));
    OK(streamlink_flow_set_max_bandwidth(flow, 1000000, &error));
    OK(streamlink_flow_set_bandwidth_policy(flow, STREAMLINK_BANDWIDTH_POLICY_DROP, &error));

    OK(streamlink_output_create("monitor", "tap:", &output, &error));
    OK(streamlink_flow_add_output(flow, output, &error));
    FAILS(STREAMLINK_STATUS_ALREADY_EXISTS, streamlink_flow_add_output(flow, output, &error));
    OK(streamlink_flow_replace_output(flow, "monitor", output, &error));
    streamlink_output_destroy(output);

    OK(streamlink_flow_stats(flow, &stats, &error));
    CHECK(streamlink_stats_count(stats) == 4 && streamlink_stats_max_bandwidth(stats) == 1000000);
    CHECK(streamlink_stats_merge_lost(stats) == 0);
    STREAMLINK_INIT(endpoint);
    OK(streamlink_stats_endpoint(stats, 0, &endpoint, &error));
    CHECK(endpoint.is_source && strcmp(endpoint.name, "venue") == 0 && strcmp(endpoint.protocol, "SRT") == 0);
    CHECK(endpoint.state == STREAMLINK_STATE_WAITING && endpoint.connected_ms == -1 && !endpoint.active);
    OK(streamlink_stats_endpoint(stats, 2, &endpoint, &error));
    CHECK(!endpoint.is_source && strcmp(endpoint.description, "over the sea") == 0 && endpoint.player_count == 0);
    FAILS(STREAMLINK_STATUS_NOT_FOUND, streamlink_stats_endpoint(stats, 4, &endpoint, &error));
    streamlink_stats_free(stats);

    OK(streamlink_flow_remove_output(flow, "monitor", &error));
    FAILS(STREAMLINK_STATUS_NOT_FOUND, streamlink_flow_remove_output(flow, "monitor", &error));
    streamlink_flow_destroy(flow);
    streamlink_engine_destroy(engine);
}

static void pairings(void)
{
    CHECK(strcmp(streamlink_allowed_output(STREAMLINK_INPUT_SRT, 0), "SRT") == 0);
    CHECK(strcmp(streamlink_allowed_output(STREAMLINK_INPUT_SRT, 1), "RTMP_PUSH") == 0);
    CHECK(strcmp(streamlink_allowed_output(STREAMLINK_INPUT_SRT, 2), "tap") == 0);
    CHECK(streamlink_allowed_output(STREAMLINK_INPUT_SRT, 3) == NULL);
}

int main(void)
{
    library_version();
    engines();
    media();
    events();
    changes();
    pairings();
    puts("ok");
    return 0;
}
