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
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_engine_stats_to_json(NULL, &text, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_engine_flows(NULL, NULL, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_engine_flow(NULL, "a", &flow, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_event_reader_create(NULL, NULL, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_event_reader_next(NULL, 0, &event, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_event_reader_set_callback(NULL, NULL, NULL, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_event_to_json(NULL, &text, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_stats_to_json(NULL, &text, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_stats_track(NULL, 0, 0, NULL, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_flow_configs_from_json(NULL, NULL, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_flow_configs_from_json("[]", NULL, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_flow_configs_start(NULL, 0, NULL, &flow, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_flow_configuration(NULL, &text, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_flow_configuration_with_secrets(NULL, &text, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_flow_input_server_and_key(NULL, "a", &text, &text, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_flow_add_source(NULL, NULL, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_flow_replace_source(NULL, "a", NULL, NULL, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_flow_remove_source(NULL, "a", &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_flow_switch_to(NULL, "a", &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_flow_set_failover(NULL, 0, 0, 0, 0, NULL, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_flow_set_source_enabled(NULL, "a", 1, NULL, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_flow_set_output_enabled(NULL, "a", 1, NULL, &error));
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
    CHECK(streamlink_stats_region_count(NULL) == 0);
    CHECK(streamlink_flow_event_fd(NULL) == -1);
    streamlink_event_reader_destroy(NULL);
    streamlink_flow_list_free(NULL);
    streamlink_flow_configs_free(NULL);
    CHECK(streamlink_event_reader_fd(NULL) == -1 && streamlink_tap_fd(NULL) == -1);
    CHECK(streamlink_flow_list_count(NULL) == 0 && streamlink_flow_list_name(NULL, 0) == NULL);
    CHECK(streamlink_flow_configs_count(NULL) == 0 && streamlink_flow_configs_name(NULL, 0) == NULL);
    CHECK(strcmp(streamlink_flow_name(NULL), "") == 0 && strcmp(streamlink_stats_flow(NULL), "") == 0);
    CHECK(streamlink_error_count(NULL) == 0);
    CHECK(streamlink_error_get(NULL, 0, NULL) == STREAMLINK_STATUS_INVALID_ARGUMENT);
    STREAMLINK_INIT(info);
    streamlink_event_get(NULL, &info);
    CHECK(info.kind == 0 && info.sentence == NULL);
}

/* A library that was built without the feature `moq` says so. */
static void remote_regions(void)
{
    streamlink_engine *engine = check_engine();
    streamlink_flow *flow = check_flow(engine, "regions");
    streamlink_stats *stats = NULL;
    streamlink_region_stats region;
    streamlink_member_stats leg;
    FAILS(STREAMLINK_STATUS_UNSUPPORTED,
          streamlink_engine_add_remote_region(engine, "eu", "moq://127.0.0.1/studio", NULL, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT,
          streamlink_engine_add_remote_region(engine, NULL, "moq://127.0.0.1/studio", "{}", &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_engine_add_remote_region(engine, "eu", NULL, NULL, &error));
    OK(streamlink_flow_stats(flow, &stats, &error));
    CHECK(streamlink_stats_region_count(stats) == 0);
    STREAMLINK_INIT(region);
    STREAMLINK_INIT(leg);
    FAILS(STREAMLINK_STATUS_NOT_FOUND, streamlink_stats_region(stats, 0, &region, &error));
    FAILS(STREAMLINK_STATUS_NOT_FOUND, streamlink_stats_region_leg(stats, 0, 0, &leg, &error));
    streamlink_stats_free(stats);
    streamlink_flow_destroy(flow);
    streamlink_engine_destroy(engine);
}

static void struct_sizes(void)
{
    streamlink_engine *engine = NULL;
    streamlink_engine_options options;
    struct {
        streamlink_engine_options known;
        uint64_t unknown;
    } newer;
    static const size_t sizes[] = {0, 1, 7, 8, 33, 4097, (size_t)1 << 40, (size_t)-1};
    streamlink_region regions[2];
    struct {
        streamlink_region known;
        uint64_t unknown;
    } newer_regions[2];
    size_t i;
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
    options.region_count = 0xffffffff; /* garbage: it is not believed */
    options.regions = regions;
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_engine_create(&options, &engine, &error));
    options.region_count = 1;
    for (i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        STREAMLINK_INIT(regions[0]);
        regions[0].name = "here";
        regions[0].address = "127.0.0.1";
        regions[0].size = sizes[i];
        FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_engine_create(&options, &engine, &error));
    }
    regions[0].size = sizeof *regions;
    options.region_count = 2; /* the second one has another size */
    STREAMLINK_INIT(regions[1]);
    regions[1].size = 8;
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_engine_create(&options, &engine, &error));
    /* Regions of a program that was compiled with a newer header, one after another. */
    memset(newer_regions, 0, sizeof newer_regions);
    for (i = 0; i < 2; i++) {
        newer_regions[i].known.size = sizeof *newer_regions;
        newer_regions[i].known.name = i == 0 ? "here" : "there";
        newer_regions[i].known.address = "127.0.0.1";
    }
    options.regions = &newer_regions[0].known;
    OK(streamlink_engine_create(&options, &engine, &error));
    streamlink_engine_destroy(engine);
    engine = NULL;
    newer_regions[1].unknown = 1;
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_engine_create(&options, &engine, &error));
    STREAMLINK_INIT(options);
    options.tls_certificates = (const uint8_t *)"not PEM";
    options.tls_certificates_length = 7;
    FAILS(STREAMLINK_STATUS_INVALID_CONFIG, streamlink_engine_create(&options, &engine, &error));
    CHECK(engine == NULL);
}

/* All that is wrong with the flow below, one by one. */
static void one_by_one(const streamlink_error *error)
{
    static const struct {
        const char *field;
        int32_t kind;
    } expected[] = {
        {"name", STREAMLINK_CONFIG_ERROR_KIND_OUT_OF_RANGE},
        {"max_bandwidth", STREAMLINK_CONFIG_ERROR_KIND_OUT_OF_RANGE},
        {"sources[0].latency", STREAMLINK_CONFIG_ERROR_KIND_MALFORMED},
        {"outputs[0].wings", STREAMLINK_CONFIG_ERROR_KIND_UNKNOWN_SETTING},
        {"outputs[0]", STREAMLINK_CONFIG_ERROR_KIND_PAIRING},
    };
    const size_t count = sizeof expected / sizeof *expected;
    streamlink_config_error one;
    struct {
        size_t size;
        const char *field;
        const char *untouched;
    } older = {16, NULL, "untouched"};
    size_t i;
    CHECK(streamlink_error_count(error) == count);
    STREAMLINK_INIT(one);
    for (i = 0; i < count; i++) {
        CHECK(streamlink_error_get(error, i, &one) == STREAMLINK_STATUS_OK);
        CHECK(strcmp(one.field, expected[i].field) == 0 && one.kind == expected[i].kind);
        CHECK(one.message[0] != '\0' && strstr(one.message, one.field) == NULL && strchr(one.message, '\n') == NULL);
        CHECK(one.line == 0 && one.column == 0 && one.size == sizeof one);
    }
    CHECK(streamlink_error_get(error, count, &one) == STREAMLINK_STATUS_NOT_FOUND);
    CHECK(streamlink_error_get(error, 0, NULL) == STREAMLINK_STATUS_INVALID_ARGUMENT);
    one.size = 0;
    CHECK(streamlink_error_get(error, 0, &one) == STREAMLINK_STATUS_INVALID_ARGUMENT);
    /* A struct of a program that knows fewer fields. */
    CHECK(streamlink_error_get(error, 0, (streamlink_config_error *)(void *)&older) == STREAMLINK_STATUS_OK);
    CHECK(strcmp(older.field, "name") == 0 && strcmp(older.untouched, "untouched") == 0 && older.size == 16);
}

/* Errors of JSON say where in the text they are. */
static void places_in_json(streamlink_engine *engine)
{
    static const char json[] = "[\n"
                               "  { \"name\": \"a\", \"max_bandwidth\": \"fast\",\n"
                               "    \"sources\": [ { \"name\": \"in\", \"url\": \"srt://:9000\", \"latency\": -1 } ] },\n"
                               "  { \"max_bandwidth\": \"1M\" }\n"
                               "]";
    streamlink_error *error = NULL;
    streamlink_flow_configs *configs = NULL;
    streamlink_flow *flow = NULL;
    streamlink_config_error one;
    CHECK(streamlink_flow_configs_from_json(json, &configs, &error) == STREAMLINK_STATUS_INVALID_CONFIG);
    CHECK(configs == NULL && streamlink_error_count(error) == 5);
    STREAMLINK_INIT(one);
    CHECK(streamlink_error_get(error, 0, &one) == STREAMLINK_STATUS_OK);
    CHECK(strcmp(one.field, "[0].max_bandwidth") == 0 && one.line == 2 && one.column > 1);
    CHECK(one.kind == STREAMLINK_CONFIG_ERROR_KIND_MALFORMED);
    CHECK(streamlink_error_get(error, 1, &one) == STREAMLINK_STATUS_OK);
    CHECK(strcmp(one.field, "[0].sources[0].latency") == 0 && one.line == 3);
    CHECK(streamlink_error_get(error, 2, &one) == STREAMLINK_STATUS_OK);
    CHECK(one.line == 4 && one.kind == STREAMLINK_CONFIG_ERROR_KIND_MISSING);
    streamlink_error_free(error);
    error = NULL;
    CHECK(streamlink_flow_start_json(engine, "{\n  \"name\": }", &flow, &error) == STREAMLINK_STATUS_INVALID_CONFIG);
    CHECK(streamlink_error_count(error) == 1);
    CHECK(streamlink_error_get(error, 0, &one) == STREAMLINK_STATUS_OK);
    CHECK(strcmp(one.field, "") == 0 && one.line == 2 && one.column == 11);
    streamlink_error_free(error);
}

/* A flow without a source has other faults, too. */
static void without_source(streamlink_engine *engine)
{
    streamlink_flow_builder *builder = NULL;
    streamlink_output *output = NULL;
    streamlink_flow *flow = NULL;
    streamlink_error *error = NULL;
    streamlink_config_error one;
    OK(streamlink_flow_builder_create("f", 0, &builder, &error));
    OK(streamlink_output_create("out", "srt://:9001?latency=99999", &output, &error));
    OK(streamlink_flow_builder_add_output(builder, output, &error));
    CHECK(streamlink_flow_start(engine, builder, &flow, &error) == STREAMLINK_STATUS_INVALID_CONFIG);
    CHECK(streamlink_error_count(error) == 3);
    STREAMLINK_INIT(one);
    CHECK(streamlink_error_get(error, 0, &one) == STREAMLINK_STATUS_OK);
    CHECK(strcmp(one.field, "sources") == 0 && one.kind == STREAMLINK_CONFIG_ERROR_KIND_MISSING);
    CHECK(streamlink_error_get(error, 2, &one) == STREAMLINK_STATUS_OK);
    CHECK(strcmp(one.field, "outputs[0].latency") == 0);
    streamlink_error_free(error);
    streamlink_output_destroy(output);
    streamlink_flow_builder_destroy(builder);
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
    places_in_json(engine);
    without_source(engine);
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
    one_by_one(error);
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
    FAILS(STREAMLINK_STATUS_STOPPED, streamlink_flow_edit_source(flow, "in", "name", "x", NULL, &error));
    OK(streamlink_flow_stop(flow, &error));
    streamlink_output_destroy(output);
    streamlink_flow_destroy(flow);
}

int main(void)
{
    null_arguments();
    remote_regions();
    struct_sizes();
    wrong_configurations();
    puts("ok");
    return 0;
}
