/*
 * A host that switches between the two publishers of an RTMP source by hand, while a player is connected. It prints the
 * addresses, waits for both publishers and the player, and switches as often as it is told. Compiles as C99.
 */
#include "check.h"

#include <time.h>

static streamlink_flow *flow;

static streamlink_endpoint_stats endpoint_of(size_t index)
{
    streamlink_stats *stats = NULL;
    streamlink_endpoint_stats endpoint;
    OK(streamlink_flow_stats(flow, &stats, &error));
    STREAMLINK_INIT(endpoint);
    OK(streamlink_stats_endpoint(stats, index, &endpoint, &error));
    streamlink_stats_free(stats); /* its texts are gone; its numbers stay */
    return endpoint;
}

/* Waits until the output has handed on so many packets more. */
static void more_packets(uint64_t count)
{
    const struct timespec pause = {0, 20 * 1000 * 1000};
    const uint64_t before = endpoint_of(2).packets;
    while (endpoint_of(2).packets < before + count) {
        nanosleep(&pause, NULL);
    }
}

static void print_address(const char *source)
{
    streamlink_text *server = NULL, *key = NULL;
    OK(streamlink_flow_input_server_and_key(flow, source, &server, &key, &error));
    printf("%s %s/%s\n", source, streamlink_text_data(server), streamlink_text_data(key));
    streamlink_text_free(server);
    streamlink_text_free(key);
}

int main(int count, char **arguments)
{
    const struct timespec pause = {0, 20 * 1000 * 1000};
    const int switches = count > 1 ? atoi(arguments[1]) : 0;
    streamlink_engine *engine = check_engine();
    streamlink_text *url = NULL;
    int i;
    OK(streamlink_flow_start_json(engine,
                                  "{\"name\": \"switcher\", \"max_bandwidth\": \"20M\", \"sources\": [{\"name\": "
                                  "\"venue\", \"url\": \"rtmp://127.0.0.1:0/live?mode=listener\", \"failover\": true}], "
                                  "\"outputs\": [{\"name\": \"players\", \"url\": "
                                  "\"rtmp://127.0.0.1:0/play/KEY?mode=listener\"}]}",
                                  &flow, &error));
    print_address("venue");
    print_address("venue-backup");
    OK(streamlink_flow_playback_url(flow, "players", &url, &error));
    printf("play %s\n", streamlink_text_data(url));
    streamlink_text_free(url);
    fflush(stdout);
    while (endpoint_of(0).state != STREAMLINK_STATE_CONNECTED || endpoint_of(1).state != STREAMLINK_STATE_CONNECTED ||
           endpoint_of(2).player_count == 0) {
        nanosleep(&pause, NULL);
    }
    more_packets(100);
    for (i = 0; i < switches; i++) {
        const char *to = endpoint_of(0).active ? "venue-backup" : "venue";
        int done = 0;
        OK(streamlink_flow_switch_to(flow, to, &error));
        while (!done) {
            streamlink_event *event = NULL;
            streamlink_event_info info;
            OK(streamlink_flow_next_event(flow, -1, &event, &error));
            STREAMLINK_INIT(info);
            streamlink_event_get(event, &info);
            CHECK(info.kind != STREAMLINK_EVENT_KIND_OUTPUT_LOST);
            done = info.kind == STREAMLINK_EVENT_KIND_SWITCHED && strcmp(info.endpoint, to) == 0;
            streamlink_event_free(event);
        }
        more_packets(100);
    }
    printf("switched %d\n", switches);
    streamlink_flow_destroy(flow);
    streamlink_engine_destroy(engine);
    return 0;
}
