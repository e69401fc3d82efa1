/*
 * A host that pushes its own MPEG-TS, and gets back what the flow hands on, through the C ABI.
 *
 *     host FILE.ts OUTPUT_URL
 *     host clip.ts srt://:9001
 *
 * The file is mapped into memory and pushed without copying, at its pace of 6 Mb/s; players fetch it from the output, and
 * a tap counts what all of them get. It ends with the file.
 */
#include <streamlink.h>

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

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

/* The bytes belong to the file's mapping, which outlives all packets: there is nothing to give back. */
static void on_release(void *user)
{
    (void)user;
}

/* Says what went wrong; returns whether the call has succeeded. */
static int succeeded(streamlink_status status, streamlink_error *error)
{
    if (status != STREAMLINK_STATUS_OK) {
        fprintf(stderr, "error %d: %s\n", (int)status, streamlink_error_message(error));
        streamlink_error_free(error);
    }
    return status == STREAMLINK_STATUS_OK;
}

/* Pushes the file in real time. */
static int play(streamlink_app_source *source, const uint8_t *data, size_t length)
{
    const struct timespec pace = {0, PAYLOAD * 8 * 1000L / 6};
    size_t at;
    for (at = 0; at < length; at += PAYLOAD) {
        size_t size = length - at < PAYLOAD ? length - at : PAYLOAD;
        streamlink_error *error = NULL;
        streamlink_packet *packet = NULL;
        const streamlink_packet *one;
        if (!succeeded(streamlink_packet_borrow(STREAMLINK_PACKET_KIND_DATAGRAM, 0, data + at, size, on_release, NULL,
                                                &packet, &error),
                       error)) {
            return 0;
        }
        one = packet;
        if (streamlink_app_source_push(source, &one, 1) != STREAMLINK_STATUS_OK) {
            fprintf(stderr, "a packet was refused\n");
        }
        streamlink_packet_free(packet);
        nanosleep(&pace, NULL);
    }
    return 1;
}

static int run(streamlink_engine *engine, const char *url, const uint8_t *data, size_t length)
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
    int good = succeeded(streamlink_flow_builder_create("host", 20u * 1000 * 1000, &builder, &error), error) &&
               succeeded(streamlink_source_create("file", "app://datagrams", &in, &error), error) &&
               succeeded(streamlink_output_create("out", url, &out, &error), error) &&
               succeeded(streamlink_output_create("monitor", "tap:", &monitor, &error), error) &&
               succeeded(streamlink_flow_builder_add_source(builder, in, &error), error) &&
               succeeded(streamlink_flow_builder_add_output(builder, out, &error), error) &&
               succeeded(streamlink_flow_builder_add_output(builder, monitor, &error), error) &&
               succeeded(streamlink_flow_start(engine, builder, &flow, &error), error) &&
               succeeded(streamlink_flow_app_source(flow, "file", &source, &error), error) &&
               succeeded(streamlink_flow_tap(flow, "monitor", &tap, &error), error) &&
               succeeded(streamlink_tap_set_callback(tap, on_packet, &tally, &error), error);
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
        good = play(source, data, length);
        /* What was pushed is handed on, then everything ends. */
        good = good && succeeded(streamlink_flow_stop(flow, &error), error);
    }
    streamlink_tap_destroy(tap);
    streamlink_app_source_destroy(source);
    streamlink_flow_destroy(flow);
    printf("the tap has seen %llu packets, %llu bytes of %llu\n", tally.packets, tally.bytes,
           (unsigned long long)length);
    return good && tally.bytes == length;
}

int main(int count, char **arguments)
{
    streamlink_error *error = NULL;
    streamlink_engine *engine = NULL;
    struct stat status;
    int file, good;
    void *data;
    if (count != 3) {
        fprintf(stderr, "usage: %s FILE.ts OUTPUT_URL\n", arguments[0]);
        return 2;
    }
    file = open(arguments[1], O_RDONLY);
    if (file < 0 || fstat(file, &status) != 0 || status.st_size <= 0) {
        perror(arguments[1]);
        return 1;
    }
    data = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (data == MAP_FAILED) {
        perror(arguments[1]);
        return 1;
    }
    good = succeeded(streamlink_engine_create(NULL, &engine, &error), error) &&
           run(engine, arguments[2], (const uint8_t *)data, (size_t)status.st_size);
    /* Outputs may hold packets until the engine is gone. */
    streamlink_engine_destroy(engine);
    munmap(data, (size_t)status.st_size);
    return good ? 0 : 1;
}
