/*
 * A host whose sources are changed by commands on its standard input, one a line; it answers each with one line. Fields of
 * a command are separated by tabs. Compiles as C99 and as C++.
 *
 *   start JSON | add NAME URL | replace NAME NEW URL | remove NAME | switch NAME | address NAME | play NAME | stats
 *   feed NAME PORT: pushes the datagrams that come to a UDP port into a source of the host's.
 */
#include "check.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

static streamlink_flow *flow;

/* Datagrams of a port, for a source of the host's. */
typedef struct {
    int socket;
    streamlink_app_source *source;
} feed;

static void *pump(void *context)
{
    feed *f = (feed *)context;
    uint8_t payload[1500];
    for (;;) {
        const ssize_t size = recv(f->socket, payload, sizeof payload, 0);
        streamlink_packet *packet = NULL;
        if (size <= 0) {
            return NULL;
        }
        OK(streamlink_packet_copy(STREAMLINK_PACKET_KIND_DATAGRAM, 0, payload, (size_t)size, &packet, &error));
        /* A source that has been removed takes nothing more, and a full one loses the packet. */
        (void)streamlink_app_source_give(f->source, &packet, 1);
    }
}

static void start_feed(const char *name, int port)
{
    feed *f = (feed *)calloc(1, sizeof *f);
    struct sockaddr_in address;
    pthread_t thread;
    CHECK(f != NULL);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((uint16_t)port);
    f->socket = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(f->socket >= 0 && bind(f->socket, (struct sockaddr *)&address, sizeof address) == 0);
    OK(streamlink_flow_app_source(flow, name, &f->source, &error));
    CHECK(pthread_create(&thread, NULL, pump, f) == 0);
    CHECK(pthread_detach(thread) == 0);
}

static void answer(streamlink_text *text)
{
    printf("= %s\n", streamlink_text_data(text));
    streamlink_text_free(text);
}

static void print_stats(void)
{
    streamlink_stats *stats = NULL;
    streamlink_text *json = NULL;
    OK(streamlink_flow_stats(flow, &stats, &error));
    OK(streamlink_stats_to_json(stats, &json, &error));
    streamlink_stats_free(stats);
    answer(json);
}

/* Adds a source, or puts it in the place of another one. */
static void put(const char *before, const char *name, const char *url)
{
    streamlink_source *source = NULL;
    int32_t applied = 0;
    OK(streamlink_source_create(name, url, &source, &error));
    if (before == NULL) {
        OK(streamlink_flow_add_source(flow, source, &error));
    } else {
        OK(streamlink_flow_replace_source(flow, before, source, &applied, &error));
        CHECK(applied == STREAMLINK_APPLIED_RECONNECT);
    }
    streamlink_source_destroy(source);
    puts("=");
}

int main(void)
{
    streamlink_engine *engine = check_engine();
    static char line[4096];
    while (fgets(line, sizeof line, stdin) != NULL) {
        const char *command = strtok(line, "\t\n");
        const char *first = strtok(NULL, "\t\n"), *second = strtok(NULL, "\t\n"), *third = strtok(NULL, "\t\n");
        streamlink_text *text = NULL;
        CHECK(command != NULL);
        if (strcmp(command, "start") == 0) {
            OK(streamlink_flow_start_json(engine, first, &flow, &error));
            puts("=");
        } else if (strcmp(command, "add") == 0) {
            put(NULL, first, second);
        } else if (strcmp(command, "replace") == 0) {
            put(first, second, third);
        } else if (strcmp(command, "remove") == 0) {
            OK(streamlink_flow_remove_source(flow, first, &error));
            puts("=");
        } else if (strcmp(command, "switch") == 0) {
            OK(streamlink_flow_switch_to(flow, first, &error));
            puts("=");
        } else if (strcmp(command, "address") == 0) {
            OK(streamlink_flow_input_address(flow, first, &text, &error));
            answer(text);
        } else if (strcmp(command, "play") == 0) {
            OK(streamlink_flow_playback_url(flow, first, &text, &error));
            answer(text);
        } else if (strcmp(command, "feed") == 0) {
            start_feed(first, atoi(second));
            puts("=");
        } else {
            CHECK(strcmp(command, "stats") == 0);
            print_stats();
        }
        fflush(stdout);
    }
    streamlink_flow_destroy(flow);
    streamlink_engine_destroy(engine);
    return 0;
}
