/*
 * A relay with live statistics, through the C ABI.
 *
 *     relay SOURCE_URL NAME=OUTPUT_URL [NAME=OUTPUT_URL …]
 *     relay srt://:9000 studio=srt://studio.example.com:7000 platform=rtmp://live.example.com/app?key=KEY
 *
 * It prints where to send, events as they come, and once a second what flows. Ctrl-C ends it cleanly. PUBLIC_HOST in the
 * environment is the host name that its addresses show.
 */
#include <streamlink.h>

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    (void)number;
    interrupted = 1;
}

/*
 * Says what went wrong, and frees the error; returns whether the call has succeeded. It takes the place of the error, not
 * the error itself: in `succeeded(call(…, &error), error)` the compiler may read `error` before the call.
 */
static int succeeded(streamlink_status status, streamlink_error **error)
{
    if (status != STREAMLINK_STATUS_OK) {
        fprintf(stderr, "error %d: %s\n", (int)status, streamlink_error_message(*error));
        streamlink_error_free(*error);
        *error = NULL;
    }
    return status == STREAMLINK_STATUS_OK;
}

/* Adds a source from its URL, and outputs from arguments of the form NAME=URL. */
static int configure(streamlink_flow_builder *builder, int count, char **arguments)
{
    streamlink_error *error = NULL;
    streamlink_source *source = NULL;
    int i, good;
    good = succeeded(streamlink_source_create("source", arguments[1], &source, &error), &error) &&
           succeeded(streamlink_flow_builder_add_source(builder, source, &error), &error);
    streamlink_source_destroy(source);
    for (i = 2; good && i < count; i++) {
        streamlink_output *output = NULL;
        char *url = strchr(arguments[i], '=');
        if (url == NULL) {
            fprintf(stderr, "`%s` is not of the form NAME=URL\n", arguments[i]);
            return 0;
        }
        *url++ = '\0';
        good = succeeded(streamlink_output_create(arguments[i], url, &output, &error), &error) &&
               succeeded(streamlink_flow_builder_add_output(builder, output, &error), &error);
        streamlink_output_destroy(output);
    }
    return good;
}

static void print_events(streamlink_flow *flow)
{
    streamlink_event *event = NULL;
    while (streamlink_flow_next_event(flow, 0, &event, NULL) == STREAMLINK_STATUS_OK) {
        streamlink_event_info info;
        STREAMLINK_INIT(info);
        streamlink_event_get(event, &info);
        printf("%s\n", info.sentence);
        streamlink_event_free(event);
    }
}

static void print_statistics(streamlink_flow *flow)
{
    streamlink_stats *stats = NULL;
    streamlink_endpoint_stats endpoint;
    size_t i;
    if (streamlink_flow_stats(flow, &stats, NULL) != STREAMLINK_STATUS_OK) {
        return;
    }
    STREAMLINK_INIT(endpoint);
    for (i = 0; i < streamlink_stats_count(stats); i++) {
        if (streamlink_stats_endpoint(stats, i, &endpoint, NULL) == STREAMLINK_STATUS_OK) {
            printf("%s %-20s %-9s %8.3f Mb/s %9llu packets, %llu lost, %llu dropped\n", endpoint.is_source ? "->" : "  ->",
                   endpoint.name, endpoint.protocol, (double)endpoint.bit_rate / 1e6,
                   (unsigned long long)endpoint.packets, (unsigned long long)endpoint.lost,
                   (unsigned long long)endpoint.dropped);
        }
    }
    streamlink_stats_free(stats);
    fflush(stdout);
}

static void run(streamlink_flow *flow)
{
    streamlink_text *address = NULL, *server = NULL, *key = NULL;
    struct pollfd events;
    if (streamlink_flow_input_address(flow, "source", &address, NULL) == STREAMLINK_STATUS_OK) {
        printf("send to %s\n", streamlink_text_data(address));
        streamlink_text_free(address);
    }
    /* OBS and many other encoders have a field for each. */
    if (streamlink_flow_input_server_and_key(flow, "source", &server, &key, NULL) == STREAMLINK_STATUS_OK) {
        printf("server %s, stream key %s\n", streamlink_text_data(server), streamlink_text_data(key));
        streamlink_text_free(server);
        streamlink_text_free(key);
    }
    fflush(stdout);
    events.fd = streamlink_flow_event_fd(flow);
    events.events = POLLIN;
    while (!interrupted) {
        /* A second passes, or something happens, or a signal comes. */
        if (poll(&events, 1, 1000) == 0) {
            print_statistics(flow);
        }
        print_events(flow);
    }
    print_statistics(flow);
}

int main(int count, char **arguments)
{
    streamlink_error *error = NULL;
    streamlink_engine_options options;
    streamlink_engine *engine = NULL;
    streamlink_flow_builder *builder = NULL;
    streamlink_flow *flow = NULL;
    int good;
    if (count < 2) {
        fprintf(stderr, "usage: %s SOURCE_URL [NAME=OUTPUT_URL …]\n", arguments[0]);
        return 2;
    }
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    STREAMLINK_INIT(options);
    options.public_host = getenv("PUBLIC_HOST");
    good = succeeded(streamlink_engine_create(&options, &engine, &error), &error) &&
           succeeded(streamlink_flow_builder_create("relay", 20u * 1000 * 1000, &builder, &error), &error) &&
           configure(builder, count, arguments) &&
           succeeded(streamlink_flow_start(engine, builder, &flow, &error), &error);
    streamlink_flow_builder_destroy(builder);
    if (good) {
        run(flow);
    }
    streamlink_flow_destroy(flow);
    streamlink_engine_destroy(engine);
    return good ? 0 : 1;
}
