/* Callbacks, some of which destroy what they belong to; and many threads at one engine. Compiles as C99 and as C++. */
#include "check.h"

#include <pthread.h>
#include <time.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static void count_one(int *number)
{
    pthread_mutex_lock(&lock);
    (*number)++;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void wait_for(int *number, int value)
{
    pthread_mutex_lock(&lock);
    while (*number < value) {
        pthread_cond_wait(&changed, &lock);
    }
    pthread_mutex_unlock(&lock);
}

/* Pushes packets until so many things were counted: a tap that the machine holds up for a second loses packets. */
static void push_until(streamlink_app_source *source, const int *number, int value)
{
    const struct timespec pause = {0, 20 * 1000 * 1000};
    for (;;) {
        int now;
        pthread_mutex_lock(&lock);
        now = *number;
        pthread_mutex_unlock(&lock);
        if (now >= value) {
            return;
        }
        check_push(source, 20);
        nanosleep(&pause, NULL);
    }
}

static int lines, events_seen, stops_seen, packets_seen, done;

static void on_log(void *user, int32_t level, const char *target, const char *message)
{
    CHECK(user == &lines && level >= 1 && level <= 4 && target != NULL && message[0] != '\0');
    count_one(&lines);
}

static void on_event(void *user, const streamlink_event *event)
{
    streamlink_event_info info;
    STREAMLINK_INIT(info);
    streamlink_event_get(event, &info);
    CHECK(user == &events_seen && info.sentence[0] != '\0');
    if (info.kind == STREAMLINK_EVENT_KIND_FLOW_STOPPED) {
        count_one(&stops_seen);
    }
    count_one(&events_seen);
}

static void on_packet(void *user, const streamlink_packet *packet)
{
    CHECK(user == &packets_seen && streamlink_packet_length(packet) == 188);
    count_one(&packets_seen);
}

static void events_and_packets(void)
{
    streamlink_engine *engine = check_engine();
    streamlink_flow *flow;
    streamlink_app_source *source = NULL;
    streamlink_tap *tap = NULL;
    streamlink_event *event = NULL;
    streamlink_packet *packet = NULL;
    size_t count = 0;
    OK(streamlink_log_set(on_log, &lines, STREAMLINK_LOG_LEVEL_INFO, &error));
    flow = check_flow(engine, "ordinary");
    OK(streamlink_flow_set_event_callback(flow, on_event, &events_seen, &error));
    OK(streamlink_flow_tap(flow, "tap", &tap, &error));
    OK(streamlink_tap_set_callback(tap, on_packet, &packets_seen, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_tap_set_callback(tap, on_packet, &packets_seen, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_tap_next(tap, 0, &packet, 1, &count, &error));
    OK(streamlink_flow_app_source(flow, "in", &source, &error));
    push_until(source, &packets_seen, 50);
    wait_for(&events_seen, 2); /* started, source connected */
    /* Without the callback, events wait for who asks. */
    OK(streamlink_flow_set_event_callback(flow, NULL, NULL, &error));
    OK(streamlink_flow_stop(flow, &error));
    CHECK(stops_seen == 0);
    OK(streamlink_flow_next_event(flow, 30000, &event, &error));
    streamlink_event_free(event);
    wait_for(&lines, 1);
    OK(streamlink_log_set(NULL, NULL, STREAMLINK_LOG_LEVEL_OFF, &error));
    streamlink_tap_destroy(tap);
    streamlink_app_source_destroy(source);
    streamlink_flow_destroy(flow);
    streamlink_engine_destroy(engine);
}

/* What the callbacks below destroy. */
struct doomed {
    streamlink_engine *engine;
    streamlink_flow *flow;
    streamlink_tap *tap;
    int destroyed;
};

/* Takes what is to be destroyed, once. Under a lock that sanitizers see: they know nothing of the library's own. */
static struct doomed take(struct doomed *from)
{
    struct doomed taken;
    pthread_mutex_lock(&lock);
    taken = *from;
    from->destroyed = 1;
    pthread_mutex_unlock(&lock);
    return taken;
}

static void put(struct doomed *to, struct doomed from)
{
    pthread_mutex_lock(&lock);
    *to = from;
    pthread_mutex_unlock(&lock);
}

static void destroy_tap(void *user, const streamlink_packet *packet)
{
    struct doomed doomed = take((struct doomed *)user);
    CHECK(packet != NULL);
    if (!doomed.destroyed) {
        streamlink_tap_destroy(doomed.tap);
        count_one(&done);
    }
}

static void destroy_flow_and_engine(void *user, const streamlink_event *event)
{
    struct doomed doomed = take((struct doomed *)user);
    streamlink_event_info info;
    STREAMLINK_INIT(info);
    streamlink_event_get(event, &info);
    if (!doomed.destroyed) {
        streamlink_stats *stats = NULL;
        streamlink_output *output = NULL;
        /* Calls that wait are allowed here; the one that would wait for itself is refused. */
        OK(streamlink_flow_stats(doomed.flow, &stats, &error));
        streamlink_stats_free(stats);
        OK(streamlink_output_create("late", "tap:", &output, &error));
        OK(streamlink_flow_add_output(doomed.flow, output, &error));
        OK(streamlink_flow_remove_output(doomed.flow, "late", &error));
        streamlink_output_destroy(output);
        OK(streamlink_flow_set_event_callback(doomed.flow, destroy_flow_and_engine, user, &error));
        FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_flow_stop(doomed.flow, &error));
        streamlink_flow_destroy(doomed.flow);
        streamlink_engine_destroy(doomed.engine);
    }
    if (info.kind == STREAMLINK_EVENT_KIND_FLOW_STOPPED) {
        count_one(&done);
    }
}

static void destroy_from_callback(void)
{
    static struct doomed first, second; /* they outlive what ends after its destruction */
    struct doomed made;
    streamlink_engine *engine = check_engine();
    streamlink_app_source *source = NULL;
    memset(&made, 0, sizeof made);
    made.engine = engine;
    made.flow = check_flow(engine, "tap destroyed");
    OK(streamlink_flow_tap(made.flow, "tap", &made.tap, &error));
    put(&first, made);
    OK(streamlink_tap_set_callback(made.tap, destroy_tap, &first, &error));
    OK(streamlink_flow_app_source(made.flow, "in", &source, &error));
    push_until(source, &done, 1);
    check_push(source, 20);
    streamlink_app_source_destroy(source);
    streamlink_flow_destroy(made.flow);

    made.tap = NULL;
    made.flow = check_flow(engine, "flow destroyed");
    put(&second, made);
    OK(streamlink_flow_set_event_callback(made.flow, destroy_flow_and_engine, &second, &error));
    wait_for(&done, 2);
}

static int asked;

/* Lets those in who ask for "good", with a passphrase, and turns the others away. */
static void on_caller(void *user, const streamlink_access_request *request, streamlink_access_reply *reply)
{
    CHECK(user == &asked && request->size >= sizeof *request && reply->size >= sizeof *reply);
    CHECK(strcmp(request->endpoint, "in") == 0 && request->publishes);
    CHECK(strncmp(request->peer, "127.0.0.1:", 10) == 0 && request->stream_id != NULL);
    if (strcmp(request->stream_id, "good") == 0) {
        strcpy(reply->passphrase, "correct horse");
        reply->accept = 1;
    } else if (strcmp(request->stream_id, "bad") == 0) {
        reply->reject = 1401;
    } /* else: nothing is written, which refuses */
    count_one(&asked);
}

/*
 * A flow that calls with a stream id, and has had an event of a kind with a detail. On a machine that is too busy for the
 * hook to answer in time, a caller is refused for that, and calls again.
 */
static streamlink_flow *call(streamlink_engine *engine, const char *port, const char *stream_id, int32_t kind,
                             const char *detail)
{
    char json[512];
    streamlink_flow *flow = NULL;
    int seen = 0;
    snprintf(json, sizeof json,
             "{\"name\": \"%s\", \"max_bandwidth\": \"20M\", \"sources\": [{\"name\": \"host\", \"url\": "
             "\"app://datagrams\"}], \"outputs\": [{\"name\": \"out\", \"url\": \"srt://127.0.0.1:%s?mode=caller\", "
             "\"streamid\": \"%s\", \"passphrase\": \"correct horse\"}]}",
             stream_id, port, stream_id);
    OK(streamlink_flow_start_json(engine, json, &flow, &error));
    while (!seen) {
        streamlink_event *event = NULL;
        streamlink_event_info info;
        OK(streamlink_flow_next_event(flow, 30000, &event, &error));
        STREAMLINK_INIT(info);
        streamlink_event_get(event, &info);
        seen = info.kind == kind && strstr(info.detail, detail) != NULL;
        streamlink_event_free(event);
    }
    return flow;
}

static void srt_hook(void)
{
    streamlink_engine_options options;
    streamlink_engine *engine = NULL;
    streamlink_flow *flow = NULL, *good, *bad, *silent;
    streamlink_text *address = NULL;
    char port[16];
    STREAMLINK_INIT(options);
    options.threads = 2;
    options.access = on_caller;
    options.access_user = &asked;
    OK(streamlink_engine_create(&options, &engine, &error));
    OK(streamlink_flow_start_json(engine,
                                  "{\"name\": \"guarded\", \"max_bandwidth\": \"20M\", \"sources\": [{\"name\": \"in\", "
                                  "\"url\": \"srt://127.0.0.1:0?mode=listener\"}]}",
                                  &flow, &error));
    OK(streamlink_flow_input_address(flow, "in", &address, &error));
    snprintf(port, sizeof port, "%s", strrchr(streamlink_text_data(address), ':') + 1);
    streamlink_text_free(address);
    bad = call(engine, port, "bad", STREAMLINK_EVENT_KIND_OUTPUT_RETRYING, "1401");
    silent = call(engine, port, "silent", STREAMLINK_EVENT_KIND_OUTPUT_RETRYING, "forbidden"); /* 1403 */
    good = call(engine, port, "good", STREAMLINK_EVENT_KIND_OUTPUT_CONNECTED, "");
    wait_for(&asked, 3);
    streamlink_flow_destroy(good);
    streamlink_flow_destroy(silent);
    streamlink_flow_destroy(bad);
    streamlink_flow_destroy(flow);
    streamlink_engine_destroy(engine);
}

static streamlink_engine *crowded;
static streamlink_flow *shared_flow;

static void *caller_thread(void *user)
{
    int number = *(int *)user, round;
    for (round = 0; round < 15; round++) {
        char name[32];
        streamlink_flow *flow;
        streamlink_output *output = NULL;
        streamlink_stats *stats = NULL;
        streamlink_text *metrics = NULL;
        streamlink_endpoint_stats endpoint;
        size_t i;
        snprintf(name, sizeof name, "flow %d %d", number, round);
        flow = check_flow(crowded, name);
        OK(streamlink_output_create(name, "tap:", &output, &error));
        OK(streamlink_flow_add_output(shared_flow, output, &error));
        OK(streamlink_flow_edit_output(shared_flow, name, "description", "threads", NULL, &error));
        OK(streamlink_flow_stats(shared_flow, &stats, &error));
        STREAMLINK_INIT(endpoint);
        for (i = 0; i < streamlink_stats_count(stats); i++) {
            OK(streamlink_stats_endpoint(stats, i, &endpoint, &error));
        }
        streamlink_stats_free(stats);
        OK(streamlink_engine_metrics(crowded, &metrics, &error));
        streamlink_text_free(metrics);
        OK(streamlink_flow_remove_output(shared_flow, name, &error));
        streamlink_output_destroy(output);
        streamlink_flow_destroy(flow);
    }
    return NULL;
}

static void concurrent_calls(void)
{
    pthread_t threads[4];
    int numbers[4], i;
    streamlink_app_source *source = NULL;
    crowded = check_engine();
    shared_flow = check_flow(crowded, "shared");
    OK(streamlink_flow_app_source(shared_flow, "in", &source, &error));
    for (i = 0; i < 4; i++) {
        numbers[i] = i;
        CHECK(pthread_create(&threads[i], NULL, caller_thread, &numbers[i]) == 0);
    }
    for (i = 0; i < 20; i++) {
        check_push(source, 20);
    }
    for (i = 0; i < 4; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    streamlink_app_source_destroy(source);
    streamlink_engine_destroy(crowded); /* with a flow still there */
    streamlink_flow_destroy(shared_flow);
}

int main(void)
{
    events_and_packets();
    destroy_from_callback();
    srt_hook();
    concurrent_calls();
    puts("ok");
    return 0;
}
