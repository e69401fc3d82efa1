/*
 * What an engine tells about its flows: a list, handles, events with times and names, statistics and configurations as
 * JSON; and the table of settings. Compiles as C99 and as C++.
 */
#include "check.h"

#include <poll.h>
#include <pthread.h>
#include <time.h>

static const char two_flows[] =
    "[ { \"name\": \"one\", \"max_bandwidth\": \"20M\","
    "    \"sources\": [ { \"name\": \"in\", \"url\": \"app://datagrams\" } ],"
    "    \"outputs\": [ { \"name\": \"tap\", \"url\": \"tap:\" },"
    "                   { \"name\": \"calls\", \"url\": \"srt://127.0.0.1:9?passphrase=hunter2hunter2\","
    "                     \"enabled\": false } ] },"
    "  { \"name\": \"two\", \"max_bandwidth\": \"20M\","
    "    \"sources\": [ { \"name\": \"in\", \"url\": \"rtmp://127.0.0.1:0/live/hunter2?mode=listener\" } ] } ]";

/* A text that a call has given. */
static char *taken(streamlink_text *text)
{
    const size_t length = streamlink_text_length(text);
    char *copy = (char *)malloc(length + 1);
    CHECK(copy != NULL && length == strlen(streamlink_text_data(text)));
    memcpy(copy, streamlink_text_data(text), length + 1);
    streamlink_text_free(text);
    return copy;
}

static void holds(streamlink_text *text, const char *part, int expected)
{
    char *json = taken(text);
    if ((strstr(json, part) != NULL) != expected) {
        fprintf(stderr, "`%s` in %s\n", part, json);
        abort();
    }
    free(json);
}

/* The next event of a flow, of a kind. Others are left out. */
static streamlink_event *event_of(const streamlink_event_reader *reader, const char *flow, int32_t kind)
{
    for (;;) {
        streamlink_event *event = NULL;
        streamlink_event_info info;
        OK(streamlink_event_reader_next(reader, 60000, &event, &error));
        STREAMLINK_INIT(info);
        streamlink_event_get(event, &info);
        if (info.kind == kind && strcmp(info.flow, flow) == 0) {
            return event;
        }
        streamlink_event_free(event);
    }
}

static void flows_and_events(void)
{
    streamlink_engine *engine = check_engine();
    streamlink_flow_configs *configs = NULL;
    streamlink_flow_list *list = NULL;
    streamlink_event_reader *reader = NULL, *other = NULL;
    streamlink_flow *one = NULL, *two = NULL, *again = NULL;
    streamlink_app_source *source = NULL;
    streamlink_event *event = NULL;
    streamlink_event_info info;
    streamlink_text *text = NULL, *key = NULL;
    streamlink_stats *stats = NULL;
    struct pollfd fd;
    const int64_t before = (int64_t)time(NULL) * 1000;
    OK(streamlink_event_reader_create(engine, &reader, &error));
    OK(streamlink_event_reader_create(engine, &other, &error));
    fd.fd = streamlink_event_reader_fd(reader);
    fd.events = POLLIN;
    CHECK(fd.fd >= 0 && poll(&fd, 1, 0) == 0);
    FAILS(STREAMLINK_STATUS_TIMED_OUT, streamlink_event_reader_next(reader, 0, &event, &error));
    OK(streamlink_engine_flows(engine, &list, &error));
    CHECK(streamlink_flow_list_count(list) == 0 && streamlink_flow_list_name(list, 0) == NULL);
    streamlink_flow_list_free(list);

    OK(streamlink_flow_configs_from_json(two_flows, &configs, &error));
    CHECK(streamlink_flow_configs_count(configs) == 2);
    CHECK(strcmp(streamlink_flow_configs_name(configs, 1), "two") == 0);
    CHECK(streamlink_flow_configs_name(configs, 2) == NULL);
    OK(streamlink_flow_configs_start(configs, 0, engine, &one, &error));
    OK(streamlink_flow_configs_start(configs, 1, engine, &two, &error));
    FAILS(STREAMLINK_STATUS_ALREADY_EXISTS, streamlink_flow_configs_start(configs, 1, engine, &again, &error));
    FAILS(STREAMLINK_STATUS_NOT_FOUND, streamlink_flow_configs_start(configs, 2, engine, &again, &error));
    streamlink_flow_configs_free(configs);
    OK(streamlink_engine_flows(engine, &list, &error));
    CHECK(streamlink_flow_list_count(list) == 2 && strcmp(streamlink_flow_list_name(list, 1), "two") == 0);
    streamlink_flow_list_free(list);
    CHECK(strcmp(streamlink_flow_name(two), "two") == 0);

    /* Events of all flows, each with its flow and its time. */
    CHECK(poll(&fd, 1, 60000) == 1);
    streamlink_event_free(event_of(reader, "one", STREAMLINK_EVENT_KIND_FLOW_STARTED));
    event = event_of(reader, "two", STREAMLINK_EVENT_KIND_FLOW_STARTED);
    STREAMLINK_INIT(info);
    streamlink_event_get(event, &info);
    /* In milliseconds since 1970; the clock of the machine may be set meanwhile. */
    CHECK(info.at_ms > before - 3600000 && info.at_ms < before + 3600000);
    OK(streamlink_event_to_json(event, &text, &error));
    holds(text, "{\"flow\":\"two\",\"at_ms\":1", 1);
    OK(streamlink_event_to_json(event, &text, &error));
    holds(text, "\"event\":\"flow_started\"}", 1);
    streamlink_event_free(event);

    /* Another handle of a flow: it has events of its own, and the flow outlives it. */
    FAILS(STREAMLINK_STATUS_NOT_FOUND, streamlink_engine_flow(engine, "three", &again, &error));
    OK(streamlink_engine_flow(engine, "one", &again, &error));
    OK(streamlink_flow_app_source(again, "in", &source, &error));
    check_push(source, 1);
    for (;;) {
        OK(streamlink_flow_next_event(again, 60000, &event, &error));
        streamlink_event_get(event, &info);
        CHECK(strcmp(info.flow, "one") == 0 && info.at_ms >= before);
        if (info.kind == STREAMLINK_EVENT_KIND_SOURCE_CONNECTED) {
            break;
        }
        streamlink_event_free(event);
    }
    streamlink_event_free(event);
    streamlink_flow_destroy(again);
    check_push(source, 1);

    /* Statistics as JSON, of one flow and of all; keys are hidden. */
    OK(streamlink_flow_stats(one, &stats, &error));
    CHECK(strcmp(streamlink_stats_flow(stats), "one") == 0);
    OK(streamlink_stats_to_json(stats, &text, &error));
    holds(text, "{\"name\":\"one\",\"max_bandwidth\":20000000,", 1);
    OK(streamlink_stats_to_json(stats, &text, &error));
    holds(text, "\"packets\":2,", 1);
    streamlink_stats_free(stats);
    OK(streamlink_engine_stats_to_json(engine, &text, &error));
    holds(text, "},{\"name\":\"two\",", 1);
    OK(streamlink_engine_stats_to_json(engine, &text, &error));
    holds(text, "hunter2", 0);

    /* The configuration, without secrets and with them: what it gives starts the same flow. */
    OK(streamlink_flow_set_max_bandwidth(one, 7000000, &error));
    OK(streamlink_flow_configuration(one, &text, &error));
    holds(text, "hunter2", 0);
    OK(streamlink_flow_configuration(one, &text, &error));
    holds(text, "\"7M\"", 1);
    OK(streamlink_flow_configuration_with_secrets(one, &text, &error));
    holds(text, "hunter2hunter2", 1);
    OK(streamlink_flow_configuration_with_secrets(two, &text, &error));
    streamlink_flow_destroy(two);
    two = NULL;
    event = event_of(reader, "two", STREAMLINK_EVENT_KIND_FLOW_STOPPED);
    streamlink_event_free(event);
    {
        char *json = taken(text);
        OK(streamlink_flow_start_json(engine, json, &two, &error));
        free(json);
    }
    OK(streamlink_flow_input_server_and_key(two, "in", &text, &key, &error));
    CHECK(strcmp(streamlink_text_data(key), "hunter2") == 0);
    holds(text, "rtmp://127.0.0.1:", 1);
    streamlink_text_free(key);
    key = NULL;
    FAILS(STREAMLINK_STATUS_NOT_FOUND, streamlink_flow_input_server_and_key(one, "in", &text, &key, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_flow_input_server_and_key(two, "in", &text, NULL, &error));

    /* The readers end with the engine, after what waits. */
    streamlink_event_reader_destroy(other);
    streamlink_app_source_destroy(source);
    streamlink_engine_destroy(engine);
    streamlink_event_free(event_of(reader, "one", STREAMLINK_EVENT_KIND_FLOW_STOPPED));
    for (;;) {
        streamlink_error *error = NULL;
        const streamlink_status status = streamlink_event_reader_next(reader, 60000, &event, &error);
        if (status != STREAMLINK_STATUS_OK) {
            CHECK(status == STREAMLINK_STATUS_STOPPED);
            streamlink_error_free(error);
            break;
        }
        streamlink_event_free(event);
    }
    CHECK(poll(&fd, 1, 60000) == 1);
    streamlink_event_reader_destroy(reader);
    streamlink_flow_destroy(one);
    streamlink_flow_destroy(two);
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static streamlink_event_reader *doomed;
static int seen, destroyed;

/* Destroys its own reader. */
static void on_event(void *user, const streamlink_event *event)
{
    streamlink_event_info info;
    streamlink_event_reader *reader;
    STREAMLINK_INIT(info);
    streamlink_event_get(event, &info);
    CHECK(user == &seen && info.flow != NULL);
    pthread_mutex_lock(&lock);
    reader = doomed;
    doomed = NULL;
    pthread_mutex_unlock(&lock);
    streamlink_event_reader_destroy(reader);
    pthread_mutex_lock(&lock);
    seen++;
    destroyed += reader != NULL;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void reader_destroyed_from_callback(void)
{
    streamlink_engine *engine = check_engine();
    streamlink_event_reader *reader = NULL;
    streamlink_flow *flow;
    OK(streamlink_event_reader_create(engine, &reader, &error));
    pthread_mutex_lock(&lock);
    doomed = reader;
    pthread_mutex_unlock(&lock);
    OK(streamlink_event_reader_set_callback(reader, on_event, &seen, &error));
    flow = check_flow(engine, "told");
    pthread_mutex_lock(&lock);
    while (!destroyed) {
        pthread_cond_wait(&changed, &lock);
    }
    pthread_mutex_unlock(&lock);
    streamlink_flow_destroy(flow);
    streamlink_engine_destroy(engine);
}

static void settings(void)
{
    const size_t count = streamlink_setting_count();
    size_t i, latency = 0, failover = 0;
    streamlink_setting setting;
    struct {
        size_t size;
        const char *name;
        const char *untouched;
    } older = {16, NULL, "untouched"};
    STREAMLINK_INIT(setting);
    for (i = 0; i < count; i++) {
        OK(streamlink_setting_get(i, &setting, &error));
        CHECK(setting.name[0] != '\0' && setting.value_type[0] != '\0' && setting.scopes[0] != '\0');
        CHECK(setting.summary[0] != '\0' && setting.range[0] != '\0' && setting.max >= setting.min);
        if (strcmp(setting.name, "latency") == 0 && strstr(setting.scopes, "SRT") != NULL) {
            latency++;
            CHECK(strcmp(setting.value_type, "number") == 0 && setting.max == 10000 && strcmp(setting.unit, "ms") == 0);
            CHECK(strcmp(setting.default_value, "120") == 0 && strstr(setting.scopes, "SRT caller output") != NULL);
        }
        failover += strcmp(setting.name, "failover") == 0 && strcmp(setting.scopes, "RTMP source") == 0;
    }
    CHECK(latency == 1 && failover == 1);
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_setting_get(count, &setting, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_setting_get(0, NULL, &error));
    OK(streamlink_setting_get(0, (streamlink_setting *)(void *)&older, &error));
    CHECK(strcmp(older.name, "name") == 0 && strcmp(older.untouched, "untouched") == 0);
}

int main(void)
{
    flows_and_events();
    reader_destroyed_from_callback();
    settings();
    puts("ok");
    return 0;
}
