/* What a program must not do, and what becomes of it: a status, never a crash. Compiles as C99 and as C++. */
#include "check.h"

static void null_arguments(void)
{
    streamlink_engine *engine = NULL;
    streamlink_flow *flow = NULL;
    streamlink_text *text = NULL;
    streamlink_packet *packet = NULL;
    streamlink_stats *stats = NULL;
    streamlink_event *event = NULL;
    streamlink_event_info info;
    size_t count = 77;
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_engine_create(NULL, NULL, &error));
    CHECK(streamlink_engine_create(NULL, NULL, NULL) == STREAMLINK_STATUS_INVALID_ARGUMENT);
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_engine_metrics(NULL, &text, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_flow_start(NULL, NULL, &flow, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_flow_start_json(NULL, "{}", &flow, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_flow_stop(NULL, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_flow_next_event(NULL, 0, &event, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_flow_stats(NULL, &stats, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_tap_next(NULL, 0, &packet, 1, &count, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_flow_set_event_callback(NULL, NULL, NULL, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_source_set(NULL, "a", "b", &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_packet_copy(99, 0, NULL, 0, &packet, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_packet_copy(1, 0, NULL, 5, &packet, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_packet_copy(6, 256, NULL, 0, &packet, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_packet_borrow(1, 0, NULL, 0, NULL, NULL, &packet, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_log_set(NULL, NULL, 9, &error));
    CHECK(streamlink_app_source_push(NULL, NULL, 0) == STREAMLINK_STATUS_INVALID_ARGUMENT);
    CHECK(engine == NULL && flow == NULL && text == NULL && packet == NULL && stats == NULL && event == NULL);
    CHECK(count == 77);

    /* NULL is allowed where there is nothing to do. */
    streamlink_error_free(NULL);
    streamlink_engine_destroy(NULL);
    streamlink_flow_destroy(NULL);
    streamlink_flow_builder_destroy(NULL);
    streamlink_source_destroy(NULL);
    streamlink_output_destroy(NULL);
    streamlink_tap_destroy(NULL);
    streamlink_app_source_destroy(NULL);
    streamlink_packet_free(NULL);
    streamlink_stats_free(NULL);
    streamlink_event_free(NULL);
    streamlink_text_free(NULL);
    CHECK(streamlink_error_status(NULL) == STREAMLINK_STATUS_OK);
    CHECK(strcmp(streamlink_error_message(NULL), "") == 0 && strcmp(streamlink_error_field(NULL), "") == 0);
    CHECK(streamlink_packet_clone(NULL) == NULL && streamlink_packet_data(NULL) == NULL);
    CHECK(streamlink_packet_length(NULL) == 0 && streamlink_stats_count(NULL) == 0);
    CHECK(streamlink_flow_event_fd(NULL) == -1);
    STREAMLINK_INIT(info);
    streamlink_event_get(NULL, &info);
    CHECK(info.kind == 0 && info.sentence == NULL);
}

static void struct_sizes(void)
{
    streamlink_engine *engine = NULL;
    streamlink_engine_options options;
    struct {
        streamlink_engine_options known;
        uint64_t unknown;
    } newer;
    memset(&options, 0, sizeof options); /* without its size */
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_engine_create(&options, &engine, &error));
    memset(&newer, 0, sizeof newer);
    newer.known.size = sizeof newer;
    newer.known.threads = 1;
    OK(streamlink_engine_create(&newer.known, &engine, &error));
    streamlink_engine_destroy(engine);
    engine = NULL;
    newer.unknown = 1;
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_engine_create(&newer.known, &engine, &error));
    STREAMLINK_INIT(options);
    options.size = (size_t)1 << 40; /* garbage: nothing behind the struct is read */
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_engine_create(&options, &engine, &error));
    STREAMLINK_INIT(options);
    options.reserved = 1;
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_engine_create(&options, &engine, &error));
    STREAMLINK_INIT(options);
    options.peer_connections = 1000001;
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_engine_create(&options, &engine, &error));
    STREAMLINK_INIT(options);
    options.region_count = 3;
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_engine_create(&options, &engine, &error));
    STREAMLINK_INIT(options);
    options.tls_certificates = (const uint8_t *)"not PEM";
    options.tls_certificates_length = 7;
    FAILS(STREAMLINK_STATUS_INVALID_CONFIG, streamlink_engine_create(&options, &engine, &error));
    CHECK(engine == NULL);
}

static void wrong_configurations(void)
{
    streamlink_engine *engine = check_engine();
    streamlink_flow *flow = NULL, *other = NULL;
    streamlink_flow_builder *builder = NULL;
    streamlink_source *source = NULL;
    streamlink_output *output = NULL;
    streamlink_error *error = NULL;
    streamlink_text *text = NULL;
    static const char not_utf8[] = {'a', (char)0xff, 0};
    FAILS(STREAMLINK_STATUS_INVALID_CONFIG, streamlink_flow_start_json(engine, "{", &flow, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_flow_start_json(engine, not_utf8, &flow, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_source_create(not_utf8, "app://rtp", &source, &error));

    /* What is wrong is told when the flow is started, all of it, with the path of the first field. */
    OK(streamlink_flow_builder_create("", 0, &builder, &error));
    FAILS(STREAMLINK_STATUS_INVALID_CONFIG, streamlink_flow_start(engine, builder, &flow, &error));
    OK(streamlink_source_create("in", "srt://:9000?latency=99999", &source, &error));
    OK(streamlink_output_create("out", "rtp://192.0.2.1:5004", &output, &error));
    OK(streamlink_output_set(output, "wings", "2", &error));
    OK(streamlink_flow_builder_add_source(builder, source, &error));
    OK(streamlink_flow_builder_add_output(builder, output, &error));
    CHECK(streamlink_flow_start(engine, builder, &flow, &error) == STREAMLINK_STATUS_INVALID_CONFIG);
    CHECK(strcmp(streamlink_error_field(error), "name") == 0);
    CHECK(strstr(streamlink_error_message(error), "sources[0].latency") != NULL);
    CHECK(strstr(streamlink_error_message(error), "outputs[0].wings") != NULL);
    CHECK(strstr(streamlink_error_message(error), "SRT, RTMP_PUSH, tap") != NULL);
    streamlink_error_free(error);
    error = NULL;
    FAILS(STREAMLINK_STATUS_INVALID_CONFIG, streamlink_flow_builder_to_json(builder, &text, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_flow_builder_set_bandwidth_policy(builder, 5, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_flow_builder_set_failover(builder, 5, 0, 0, 0, &error));
    streamlink_flow_builder_destroy(builder);
    streamlink_source_destroy(source);
    streamlink_output_destroy(output);
    CHECK(flow == NULL && text == NULL);

    /* What the system refuses names the endpoint. */
    CHECK(streamlink_flow_start_json(engine,
                                     "{\"name\": \"far\", \"max_bandwidth\": 1000000, \"sources\": [{\"name\": \"in\", "
                                     "\"url\": \"rtp://192.0.2.1:5004?mode=listener\"}]}",
                                     &flow, &error) == STREAMLINK_STATUS_IO);
    CHECK(strcmp(streamlink_error_field(error), "source `in`") == 0);
    streamlink_error_free(error);
    error = NULL;

    /* Two flows of one name; what is not there; what can be done once. */
    flow = check_flow(engine, "one");
    FAILS(STREAMLINK_STATUS_ALREADY_EXISTS,
          streamlink_flow_start_json(engine,
                                     "{\"name\": \"one\", \"max_bandwidth\": 1000000, \"sources\": [{\"name\": \"in\", "
                                     "\"url\": \"app://rtp\"}]}",
                                     &other, &error));
    {
        streamlink_app_source *in = NULL;
        streamlink_tap *tap = NULL, *second = NULL;
        streamlink_packet *packet = NULL;
        size_t count = 0;
        FAILS(STREAMLINK_STATUS_NOT_FOUND, streamlink_flow_app_source(flow, "tap", &in, &error));
        FAILS(STREAMLINK_STATUS_NOT_FOUND, streamlink_flow_tap(flow, "in", &tap, &error));
        OK(streamlink_flow_tap(flow, "tap", &tap, &error));
        FAILS(STREAMLINK_STATUS_NOT_FOUND, streamlink_flow_tap(flow, "tap", &second, &error));
        FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_tap_next(tap, 0, &packet, 0, &count, &error));
        FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_tap_set_callback(tap, NULL, NULL, &error));
        CHECK(in == NULL && second == NULL && packet == NULL);
        streamlink_tap_destroy(tap);
    }

    /* Everything else is still there when the engine is gone, and says so. */
    OK(streamlink_output_create("more", "tap:", &output, &error));
    streamlink_engine_destroy(engine);
    FAILS(STREAMLINK_STATUS_STOPPED, streamlink_flow_add_output(flow, output, &error));
    FAILS(STREAMLINK_STATUS_STOPPED, streamlink_flow_remove_output(flow, "tap", &error));
    FAILS(STREAMLINK_STATUS_STOPPED, streamlink_flow_set_max_bandwidth(flow, 7, &error));
    FAILS(STREAMLINK_STATUS_STOPPED, streamlink_flow_edit_source(flow, "in", "name", "x", &error));
    OK(streamlink_flow_stop(flow, &error));
    streamlink_output_destroy(output);
    streamlink_flow_destroy(flow);
}

int main(void)
{
    null_arguments();
    struct_sizes();
    wrong_configurations();
    puts("ok");
    return 0;
}
