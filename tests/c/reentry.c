/*
 * Functions of the host that call the library: the release function of a borrowed packet, and that of the log. Whatever
 * makes the library call them, it comes back. Compiles as C99 and as C++.
 */
#include "check.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

enum { SECONDS = 60, PACKETS = 1500 };

static streamlink_engine *engine;
static streamlink_flow *flow;
static streamlink_app_source *source;
static streamlink_tap *tap; /* as all that follows, it is used from the threads of the engine, too: by LOAD and STORE */
static uint8_t data[1316];

/* What the function does, and whether it is at it. */
static void (*action)(void);
static int inside, calls, log_acts, output_acts;
static const char *volatile step = "";

#define LOAD(variable) __atomic_load_n(&(variable), __ATOMIC_SEQ_CST)
#define STORE(variable, value) __atomic_store_n(&(variable), (value), __ATOMIC_SEQ_CST)

static void too_late(int number)
{
    static const char text[] = "a call from a function of the host never came back: ";
    const char *name = step;
    (void)number;
    if (write(2, text, sizeof text - 1) >= 0 && write(2, name, strlen(name)) >= 0 && write(2, "\n", 1) >= 0) {
        _exit(2);
    }
    _exit(3);
}

static void act(void)
{
    if (!__atomic_exchange_n(&inside, 1, __ATOMIC_SEQ_CST)) {
        void (*now)(void) = LOAD(action);
        if (now != NULL) {
            now();
            __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
        }
        STORE(inside, 0);
    }
}

static void on_release(void *user)
{
    (void)user;
    act();
}

static void on_log(void *user, int32_t level, const char *target, const char *message)
{
    (void)user;
    (void)level;
    (void)target;
    if (LOAD(log_acts) || (LOAD(output_acts) && strstr(message, "output `out`") != NULL)) {
        act();
    }
}

static void push_one(void)
{
    streamlink_packet *packet = NULL;
    const streamlink_packet *one;
    OK(streamlink_packet_copy(STREAMLINK_PACKET_KIND_DATAGRAM, 0, data, sizeof data, &packet, &error));
    one = packet;
    streamlink_app_source_push(LOAD(source), &one, 1); /* the flow may be stopped */
    streamlink_packet_free(packet);
}

static void read_statistics(void)
{
    streamlink_stats *stats = NULL;
    OK(streamlink_flow_stats(LOAD(flow), &stats, &error));
    streamlink_stats_free(stats);
}

static void set_bandwidth(void)
{
    streamlink_flow_set_max_bandwidth(LOAD(flow), 900000000, NULL);
}

static void edit(void)
{
    streamlink_flow_edit_source(LOAD(flow), "in", "description", "a", NULL, NULL);
}

static void change_outputs(void)
{
    streamlink_output *output = NULL;
    OK(streamlink_output_create("late", "srt://127.0.0.1:9", &output, &error));
    if (streamlink_flow_add_output(LOAD(flow), output, NULL) == STREAMLINK_STATUS_OK) {
        streamlink_flow_remove_output(LOAD(flow), "late", NULL);
    }
    streamlink_output_destroy(output);
}

static void read_event(void)
{
    streamlink_event *event = NULL;
    if (streamlink_flow_next_event(LOAD(flow), 0, &event, NULL) == STREAMLINK_STATUS_OK) {
        streamlink_event_free(event);
    }
}

static void read_tap(void)
{
    streamlink_packet *packet = NULL;
    size_t count = 0;
    streamlink_tap *open = LOAD(tap);
    if (open != NULL && streamlink_tap_next(open, 0, &packet, 1, &count, NULL) == STREAMLINK_STATUS_OK) {
        streamlink_packet_free(packet);
    }
}

static void set_log(void)
{
    OK(streamlink_log_set(on_log, NULL, STREAMLINK_LOG_LEVEL_DEBUG, &error));
}

/* Calls that wait for an output, made by a task of that output: once. */
static void remove_out(void)
{
    STORE(action, NULL);
    OK(streamlink_flow_remove_output(LOAD(flow), "out", &error));
}

static void replace_out(void)
{
    streamlink_output *output = NULL;
    STORE(action, NULL);
    OK(streamlink_output_create("other", "srt://127.0.0.1:9", &output, &error));
    OK(streamlink_flow_replace_output(LOAD(flow), "out", output, &error));
    streamlink_output_destroy(output);
}

static void stop_flow(void)
{
    STORE(action, NULL);
    CHECK(streamlink_flow_stop(LOAD(flow), NULL) == STREAMLINK_STATUS_INVALID_ARGUMENT);
}

static void destroy_flow(void)
{
    streamlink_flow *gone = LOAD(flow);
    STORE(action, NULL);
    STORE(flow, check_flow(engine, "instead"));
    streamlink_flow_destroy(gone);
}

static void remove_tap(void)
{
    STORE(action, NULL);
    OK(streamlink_flow_remove_output(LOAD(flow), "tap", &error));
}

static streamlink_status give(int32_t kind)
{
    streamlink_packet *packet = NULL;
    OK(streamlink_packet_borrow(kind, 0, data, sizeof data, on_release, NULL, &packet, &error));
    return streamlink_app_source_give(LOAD(source), &packet, 1);
}

static void start(const char *name)
{
    streamlink_tap *made = NULL;
    streamlink_app_source *in = NULL;
    STORE(flow, check_flow(engine, name));
    OK(streamlink_flow_app_source(LOAD(flow), "in", &in, &error));
    STORE(source, in);
    OK(streamlink_flow_tap(LOAD(flow), "tap", &made, &error));
    STORE(tap, made);
}

static void stop(void)
{
    streamlink_tap *gone = LOAD(tap);
    OK(streamlink_flow_stop(LOAD(flow), &error));
    STORE(tap, NULL);
    streamlink_tap_destroy(gone);
    STORE(action, NULL);
    STORE(log_acts, 0);
    streamlink_app_source_destroy(LOAD(source));
    streamlink_flow_destroy(LOAD(flow));
}

/* A packet of another family, given away: it is dropped within the call. */
static void refused(void)
{
    CHECK(give(STREAMLINK_PACKET_KIND_RTP) == STREAMLINK_STATUS_BAD_PACKET);
}

/* The ring drops the oldest packets when newer ones come, and what is above the bandwidth never gets there. */
static void dropped_by_the_ring(void)
{
    const struct timespec pause = {0, 2000000};
    int i;
    OK(streamlink_flow_set_max_bandwidth(LOAD(flow), 1000000, &error));
    for (i = 0; i < PACKETS; i++) {
        give(STREAMLINK_PACKET_KIND_DATAGRAM);
        if (i % 100 == 0) {
            nanosleep(&pause, NULL);
        }
    }
}

/* The tap holds the last handle, and lets go of it within the call that takes the packet out. */
static void dropped_by_the_tap(void)
{
    streamlink_packet *packet = NULL;
    size_t count = 0;
    int i;
    for (i = 0; i < 20; i++) {
        CHECK(give(STREAMLINK_PACKET_KIND_DATAGRAM) == STREAMLINK_STATUS_OK);
        CHECK(streamlink_flow_set_max_bandwidth(LOAD(flow), 1000000000, NULL) == STREAMLINK_STATUS_OK);
        if (streamlink_tap_next(LOAD(tap), 0, &packet, 1, &count, NULL) == STREAMLINK_STATUS_OK) {
            streamlink_packet_free(packet);
        }
    }
}

/* The first packet is an event, and so a line of the log. */
static void logged(void)
{
    STORE(log_acts, 1);
    CHECK(give(STREAMLINK_PACKET_KIND_DATAGRAM) == STREAMLINK_STATUS_OK);
    CHECK(LOAD(calls) > 0);
}

/* A push that finds nobody is an event of its output's task, and so a line of the log there. */
static void logged_by_the_output(void)
{
    streamlink_output *output = NULL;
    STORE(output_acts, 1);
    OK(streamlink_output_create("out", "rtmp://127.0.0.1:9/app/key", &output, &error));
    OK(streamlink_flow_add_output(LOAD(flow), output, &error));
    streamlink_output_destroy(output);
}

static void on_packet(void *user, const streamlink_packet *packet)
{
    const struct timespec pause = {0, 10000000};
    (void)packet;
    if (user != NULL && !__atomic_exchange_n((int *)user, 1, __ATOMIC_SEQ_CST)) {
        dropped_by_the_ring(); /* all but the tap drop the first packet meanwhile */
        nanosleep(&pause, NULL);
    }
}

/* The callback of the tap lets the task of the tap drop the last handle. */
static void dropped_by_the_callback(void)
{
    static int has_filled;
    STORE(has_filled, 0);
    OK(streamlink_tap_set_callback(LOAD(tap), on_packet, &has_filled, &error));
    CHECK(give(STREAMLINK_PACKET_KIND_DATAGRAM) == STREAMLINK_STATUS_OK);
}

static void finish_call(void)
{
    const struct timespec pause = {0, 1000000};
    while (LOAD(calls) == 0 || LOAD(inside)) {
        nanosleep(&pause, NULL); /* the alarm ends it */
    }
    STORE(output_acts, 0);
}

int main(void)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } situations[] = {{"refused", refused},
                      {"dropped by the ring", dropped_by_the_ring},
                      {"dropped by the tap", dropped_by_the_tap},
                      {"logged", logged}};
    static const struct {
        const char *name;
        void (*run)(void);
    } actions[] = {{"push", push_one},       {"statistics", read_statistics}, {"bandwidth", set_bandwidth}, {"edit", edit},
                   {"outputs", change_outputs}, {"events", read_event},       {"tap", read_tap},            {"log", set_log}};
    static const struct {
        const char *name;
        void (*run)(void);
    } own_situations[] = {{"logged by the output", logged_by_the_output},
                          {"dropped by the callback", dropped_by_the_callback}};
    static const struct {
        const char *name;
        void (*run)(void);
        int needs_out;
    } own_actions[] = {{"remove", remove_out, 1}, {"replace", replace_out, 1}, {"remove tap", remove_tap, 0},
                       {"stop", stop_flow, 0},    {"destroy", destroy_flow, 0}};
    size_t i, k;
    engine = check_engine();
    signal(SIGALRM, too_late);
    set_log();
    for (i = 0; i < sizeof situations / sizeof *situations; i++) {
        for (k = 0; k < sizeof actions / sizeof *actions; k++) {
            char name[64];
            snprintf(name, sizeof name, "%s, %s", situations[i].name, actions[k].name);
            step = name;
            alarm(SECONDS);
            start(name);
            STORE(calls, 0);
            STORE(action, actions[k].run);
            situations[i].run();
            stop();
            if (LOAD(calls) == 0) {
                fprintf(stderr, "%s: the function was not called\n", name);
                abort();
            }
            alarm(0);
        }
    }
    for (i = 0; i < sizeof own_situations / sizeof *own_situations; i++) {
        for (k = 0; k < sizeof own_actions / sizeof *own_actions; k++) {
            char name[64];
            if (i > 0 && own_actions[k].needs_out) {
                continue;
            }
            snprintf(name, sizeof name, "%s, %s", own_situations[i].name, own_actions[k].name);
            step = name;
            alarm(SECONDS);
            start(name);
            STORE(calls, 0);
            STORE(action, own_actions[k].run);
            own_situations[i].run();
            finish_call();
            stop();
            alarm(0);
        }
    }
    OK(streamlink_log_set(NULL, NULL, STREAMLINK_LOG_LEVEL_OFF, &error));
    streamlink_engine_destroy(engine);
    printf("ok\n");
    return 0;
}
