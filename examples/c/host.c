/*
 * A host that pushes its own MPEG-TS, and gets back what the flow hands on, through the C ABI.
 *
 *     host FILE.ts OUTPUT_URL
 *     ffmpeg -re -i FILE -c copy -f mpegts - | host - srt://:9001
 *
 * What it reads is pushed without copying: a file at a pace of 6 Mb/s, a pipe at its own. Players fetch it from the
 * output, and a tap counts what all of them get. It ends with what it reads. PUBLIC_HOST in the environment is the host
 * name that the address for players shows.
 */
#include <streamlink.h>

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { PAYLOAD = 7 * 188 };

/* What the tap has seen. The callback is the only one that writes, and it is read after the tap was destroyed. */
struct tally {
    unsigned long long packets, bytes;
};

static void on_packet(void *user, const streamlink_packet *packet)
{
    struct tally *tally = (struct tally *)user;
    tally->packets++;
    tally->bytes += streamlink_packet_length(packet);
}

/* Nobody needs a buffer any more. */
static void on_release(void *user)
{
    free(user);
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

/* Pushes all that comes; returns how many bytes that were, or -1. `paced`: in real time. */
static long play(streamlink_app_source *source, FILE *input, int paced)
{
    const struct timespec pace = {0, PAYLOAD * 8 * 1000L / 6};
    long total = 0;
    for (;;) {
        streamlink_error *error = NULL;
        streamlink_packet *packet = NULL;
        uint8_t *buffer = (uint8_t *)malloc(PAYLOAD);
        size_t size = buffer == NULL ? 0 : fread(buffer, 1, PAYLOAD, input);
        if (size == 0) {
            free(buffer);
            return total;
        }
        /* From here on the buffer belongs to the packet. */
        if (!succeeded(streamlink_packet_borrow(STREAMLINK_PACKET_KIND_DATAGRAM, 0, buffer, size, on_release, buffer,
                                                &packet, &error),
                       &error)) {
            free(buffer);
            return -1;
        }
        if (streamlink_app_source_give(source, &packet, 1) != STREAMLINK_STATUS_OK) {
            fprintf(stderr, "a packet was refused\n");
        }
        total += (long)size;
        if (paced) {
            nanosleep(&pace, NULL);
        }
    }
}

static int run(streamlink_engine *engine, const char *url, FILE *input, int paced)
{
    streamlink_error *error = NULL;
    streamlink_flow_builder *builder = NULL;
    streamlink_source *in = NULL;
    streamlink_output *out = NULL, *monitor = NULL;
    streamlink_flow *flow = NULL;
    streamlink_app_source *source = NULL;
    streamlink_tap *tap = NULL;
    streamlink_text *playback = NULL;
    struct tally tally = {0, 0};
    long total = 0;
    int good = succeeded(streamlink_flow_builder_create("host", 20u * 1000 * 1000, &builder, &error), &error) &&
               succeeded(streamlink_source_create("file", "app://datagrams", &in, &error), &error) &&
               succeeded(streamlink_output_create("out", url, &out, &error), &error) &&
               succeeded(streamlink_output_create("monitor", "tap:", &monitor, &error), &error) &&
               succeeded(streamlink_flow_builder_add_source(builder, in, &error), &error) &&
               succeeded(streamlink_flow_builder_add_output(builder, out, &error), &error) &&
               succeeded(streamlink_flow_builder_add_output(builder, monitor, &error), &error) &&
               succeeded(streamlink_flow_start(engine, builder, &flow, &error), &error) &&
               succeeded(streamlink_flow_app_source(flow, "file", &source, &error), &error) &&
               succeeded(streamlink_flow_tap(flow, "monitor", &tap, &error), &error) &&
               succeeded(streamlink_tap_set_callback(tap, on_packet, &tally, &error), &error);
    streamlink_output_destroy(monitor);
    streamlink_output_destroy(out);
    streamlink_source_destroy(in);
    streamlink_flow_builder_destroy(builder);
    if (good) {
        if (streamlink_flow_playback_url(flow, "out", &playback, NULL) == STREAMLINK_STATUS_OK) {
            printf("play %s\n", streamlink_text_data(playback));
            streamlink_text_free(playback);
        }
        fflush(stdout);
        total = play(source, input, paced);
        /* What was pushed is handed on, then everything ends. */
        good = total >= 0 && succeeded(streamlink_flow_stop(flow, &error), &error);
    }
    streamlink_tap_destroy(tap);
    streamlink_app_source_destroy(source);
    streamlink_flow_destroy(flow);
    printf("the tap has seen %llu packets, %llu bytes of %ld\n", tally.packets, tally.bytes, total);
    return good && tally.bytes == (unsigned long long)total;
}

int main(int count, char **arguments)
{
    streamlink_error *error = NULL;
    streamlink_engine_options options;
    streamlink_engine *engine = NULL;
    FILE *input = stdin;
    int good, piped;
    if (count != 3) {
        fprintf(stderr, "usage: %s FILE.ts|- OUTPUT_URL\n", arguments[0]);
        return 2;
    }
    piped = arguments[1][0] == '-' && arguments[1][1] == '\0';
    if (!piped) {
        input = fopen(arguments[1], "rb");
    }
    if (input == NULL) {
        perror(arguments[1]);
        return 1;
    }
    STREAMLINK_INIT(options);
    options.public_host = getenv("PUBLIC_HOST");
    good = succeeded(streamlink_engine_create(&options, &engine, &error), &error) &&
           run(engine, arguments[2], input, !piped);
    streamlink_engine_destroy(engine);
    fclose(input);
    return good ? 0 : 1;
}
