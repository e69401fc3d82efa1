/*
 * Changes of a running flow: sources come, go, take over and are switched to; outputs and sources are disabled; the
 * failover is edited; a tap is waited for by its descriptor. Compiles as C99 and as C++.
 */
#include "check.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static streamlink_engine *engine;

/*
 * A flow that is fed by the sources "in" and "spare", to a tap. No source is lost, however long the machine holds this
 * program up.
 */
static streamlink_flow *two_sources(const char *name)
{
    char json[512];
    streamlink_flow *flow = NULL;
    snprintf(json, sizeof json,
             "{\"name\": \"%s\", \"max_bandwidth\": \"1G\", \"failover\": {\"loss_threshold\": 60000}, \"sources\": ["
             "{\"name\": \"in\", \"url\": \"app://datagrams\"}, {\"name\": \"spare\", \"url\": \"app://datagrams\"}], "
             "\"outputs\": [{\"name\": \"tap\", \"url\": \"tap:\"}]}",
             name);
    OK(streamlink_flow_start_json(engine, json, &flow, &error));
    return flow;
}

static streamlink_endpoint_stats endpoint_of(streamlink_flow *flow, size_t index, size_t *count)
{
    streamlink_stats *stats = NULL;
    streamlink_endpoint_stats endpoint;
    OK(streamlink_flow_stats(flow, &stats, &error));
    STREAMLINK_INIT(endpoint);
    OK(streamlink_stats_endpoint(stats, index, &endpoint, &error));
    if (count != NULL) {
        *count = streamlink_stats_count(stats);
    }
    streamlink_stats_free(stats); /* its texts are gone; its numbers stay */
    return endpoint;
}

static void push(streamlink_app_source *source, uint8_t number)
{
    uint8_t payload[188] = {0};
    streamlink_packet *packet = NULL;
    payload[0] = number;
    OK(streamlink_packet_copy(STREAMLINK_PACKET_KIND_DATAGRAM, 0, payload, sizeof payload, &packet, &error));
    CHECK(streamlink_app_source_give(source, &packet, 1) == STREAMLINK_STATUS_OK);
}

/*
 * Pushes a packet with a number until the tap has it: a tap that the machine holds up for a second loses packets. What
 * comes besides are repeats of the packet before.
 */
static void passes(streamlink_app_source *source, streamlink_tap *tap, uint8_t number)
{
    static uint8_t last;
    uint8_t found = 0;
    while (found != number) {
        streamlink_packet *packet = NULL;
        size_t count = 0;
        push(source, number);
        if (streamlink_tap_next(tap, 2000, &packet, 1, &count, NULL) != STREAMLINK_STATUS_OK) {
            continue;
        }
        found = streamlink_packet_data(packet)[0];
        streamlink_packet_free(packet);
        CHECK(found == number || found == last);
    }
    last = number;
}

static void sources(void)
{
    streamlink_flow *flow = two_sources("sources");
    streamlink_app_source *in = NULL, *spare = NULL, *third = NULL;
    streamlink_tap *tap = NULL;
    streamlink_source *source = NULL, *other = NULL;
    int32_t applied = 77;
    size_t count = 0;
    OK(streamlink_flow_app_source(flow, "in", &in, &error));
    OK(streamlink_flow_app_source(flow, "spare", &spare, &error));
    OK(streamlink_flow_tap(flow, "tap", &tap, &error));
    passes(in, tap, 1);
    push(spare, 2); /* a backup: nobody gets it */
    passes(in, tap, 3);
    CHECK(endpoint_of(flow, 0, NULL).active);
    /* By hand to the backup; what the other one brings is left out then. */
    OK(streamlink_flow_switch_to(flow, "spare", &error));
    passes(spare, tap, 4);
    push(in, 5);
    passes(spare, tap, 6);
    CHECK(endpoint_of(flow, 1, NULL).active);
    FAILS(STREAMLINK_STATUS_NOT_FOUND, streamlink_flow_switch_to(flow, "nobody", &error));

    /* One more, which takes over when the one that feeds the flow goes. */
    OK(streamlink_source_create("third", "app://datagrams", &source, &error));
    OK(streamlink_flow_add_source(flow, source, &error));
    FAILS(STREAMLINK_STATUS_ALREADY_EXISTS, streamlink_flow_add_source(flow, source, &error));
    OK(streamlink_source_create("odd", "app://rtp", &other, &error));
    FAILS(STREAMLINK_STATUS_INVALID_CONFIG, streamlink_flow_add_source(flow, other, &error));
    FAILS(STREAMLINK_STATUS_INVALID_CONFIG, streamlink_flow_replace_source(flow, "in", other, &applied, &error));
    CHECK(applied == 77);
    streamlink_source_destroy(other);
    OK(streamlink_flow_app_source(flow, "third", &third, &error));
    endpoint_of(flow, 2, &count);
    CHECK(count == 4);
    OK(streamlink_flow_remove_source(flow, "spare", &error));
    FAILS(STREAMLINK_STATUS_NOT_FOUND, streamlink_flow_remove_source(flow, "spare", &error));
    OK(streamlink_flow_remove_source(flow, "in", &error));
    passes(third, tap, 7);
    FAILS(STREAMLINK_STATUS_INVALID_CONFIG, streamlink_flow_remove_source(flow, "third", &error));
    CHECK(streamlink_app_source_push(in, NULL, 0) == STREAMLINK_STATUS_OK);

    /* Another one in its place, under another name. */
    streamlink_app_source_destroy(in);
    in = NULL;
    OK(streamlink_source_create("fourth", "app://datagrams", &other, &error));
    OK(streamlink_flow_replace_source(flow, "third", other, &applied, &error));
    CHECK(applied == STREAMLINK_APPLIED_RECONNECT);
    OK(streamlink_flow_app_source(flow, "fourth", &in, &error));
    passes(in, tap, 8);
    OK(streamlink_flow_edit_source(flow, "fourth", "name", "fifth", &applied, &error));
    CHECK(applied == STREAMLINK_APPLIED_IN_PLACE);

    /* Disabled, it takes nothing, and cannot be switched to. */
    OK(streamlink_flow_set_source_enabled(flow, "fifth", 1, &applied, &error));
    CHECK(applied == STREAMLINK_APPLIED_IN_PLACE && endpoint_of(flow, 0, NULL).enabled);
    OK(streamlink_flow_set_source_enabled(flow, "fifth", 0, &applied, &error));
    CHECK(applied == STREAMLINK_APPLIED_RECONNECT && !endpoint_of(flow, 0, NULL).enabled);
    FAILS(STREAMLINK_STATUS_INVALID_CONFIG, streamlink_flow_switch_to(flow, "fifth", &error));
    OK(streamlink_flow_set_source_enabled(flow, "fifth", 1, NULL, &error));
    FAILS(STREAMLINK_STATUS_NOT_FOUND, streamlink_flow_set_source_enabled(flow, "x", 1, NULL, &error));

    OK(streamlink_flow_set_output_enabled(flow, "tap", 0, &applied, &error));
    CHECK(applied == STREAMLINK_APPLIED_RECONNECT && !endpoint_of(flow, 1, NULL).enabled);
    OK(streamlink_flow_set_output_enabled(flow, "tap", 1, &applied, &error));
    CHECK(applied == STREAMLINK_APPLIED_RECONNECT && endpoint_of(flow, 1, NULL).enabled);

    /* The failover, from now on. */
    OK(streamlink_flow_set_failover(flow, STREAMLINK_FAILOVER_POLICY_PREFER, 2000, 300, 0, &applied, &error));
    CHECK(applied == STREAMLINK_APPLIED_IN_PLACE);
    {
        streamlink_text *text = NULL;
        OK(streamlink_flow_configuration(flow, &text, &error));
        CHECK(strstr(streamlink_text_data(text), "\"hold\": 2000") != NULL);
        CHECK(strstr(streamlink_text_data(text), "\"loss_threshold\": 300") != NULL);
        streamlink_text_free(text);
    }
    FAILS(STREAMLINK_STATUS_INVALID_CONFIG,
          streamlink_flow_set_failover(flow, STREAMLINK_FAILOVER_POLICY_MERGE, 200, 0, 0, NULL, &error));
    FAILS(STREAMLINK_STATUS_INVALID_CONFIG,
          streamlink_flow_set_failover(flow, STREAMLINK_FAILOVER_POLICY_STAY, 0, 1, 0, NULL, &error));
    FAILS(STREAMLINK_STATUS_INVALID_CONFIG,
          streamlink_flow_set_failover(flow, STREAMLINK_FAILOVER_POLICY_STAY, 0, 0, 1, NULL, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_flow_set_failover(flow, 3, 0, 0, 0, NULL, &error));
    streamlink_flow_destroy(flow);
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_flow_switch_to(flow, "in", &error)); /* destroyed */
    streamlink_source_destroy(source);
    streamlink_source_destroy(other);
    streamlink_app_source_destroy(in);
    streamlink_app_source_destroy(spare);
    streamlink_app_source_destroy(third);
    streamlink_tap_destroy(tap);
}

/* The descriptor of a tap is readable if, and only if, there is something to take. */
static void tap_descriptor(void)
{
    streamlink_flow *flow = check_flow(engine, "descriptor");
    streamlink_app_source *source = NULL;
    streamlink_tap *tap = NULL, *second = NULL;
    streamlink_output *output = NULL;
    streamlink_packet *packets[4];
    struct pollfd fd;
    size_t count = 0;
    int round;
    OK(streamlink_flow_tap(flow, "tap", &tap, &error));
    OK(streamlink_flow_app_source(flow, "in", &source, &error));
    fd.fd = streamlink_tap_fd(tap);
    fd.events = POLLIN;
    CHECK(fd.fd >= 0 && streamlink_tap_fd(tap) == fd.fd && poll(&fd, 1, 0) == 0);
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_tap_set_callback(tap, NULL, NULL, &error));
    FAILS(STREAMLINK_STATUS_TIMED_OUT, streamlink_tap_next(tap, 0, packets, 4, &count, &error));
    for (round = 0; round < 20; round++) {
        int last = -1;
        CHECK(poll(&fd, 1, 0) == 0);
        check_push(source, 10);
        while (last < 9) {
            size_t i;
            CHECK(poll(&fd, 1, 60000) == 1);
            OK(streamlink_tap_next(tap, 0, packets, 4, &count, &error));
            for (i = 0; i < count; i++) {
                CHECK(streamlink_packet_data(packets[i])[0] > last);
                last = streamlink_packet_data(packets[i])[0];
                streamlink_packet_free(packets[i]);
            }
        }
    }
    FAILS(STREAMLINK_STATUS_TIMED_OUT, streamlink_tap_next(tap, 20, packets, 4, &count, &error));
    CHECK(poll(&fd, 1, 0) == 0);
    /* What waits when it is first asked for is there, too. */
    OK(streamlink_output_create("second", "tap:", &output, &error));
    OK(streamlink_flow_add_output(flow, output, &error));
    streamlink_output_destroy(output);
    OK(streamlink_flow_tap(flow, "second", &second, &error));
    check_push(source, 1);
    {
        struct pollfd late;
        late.fd = streamlink_tap_fd(second);
        late.events = POLLIN;
        CHECK(late.fd >= 0 && poll(&late, 1, 60000) == 1);
        OK(streamlink_flow_remove_output(flow, "second", &error));
        OK(streamlink_tap_next(second, 0, packets, 4, &count, &error));
        CHECK(count == 1 && poll(&late, 1, 60000) == 1);
        streamlink_packet_free(packets[0]);
        FAILS(STREAMLINK_STATUS_STOPPED, streamlink_tap_next(second, 0, packets, 4, &count, &error));
        CHECK(poll(&late, 1, 0) == 1);
    }
    /* The end is readable, and stays so. */
    OK(streamlink_flow_stop(flow, &error));
    CHECK(poll(&fd, 1, 60000) == 1);
    OK(streamlink_tap_next(tap, 0, packets, 4, &count, &error));
    CHECK(count == 1);
    streamlink_packet_free(packets[0]);
    CHECK(poll(&fd, 1, 60000) == 1);
    FAILS(STREAMLINK_STATUS_STOPPED, streamlink_tap_next(tap, 0, packets, 4, &count, &error));
    CHECK(poll(&fd, 1, 0) == 1);
    streamlink_tap_destroy(second);
    streamlink_tap_destroy(tap);
    streamlink_app_source_destroy(source);
    streamlink_flow_destroy(flow);
}

static void nothing(void *user, const streamlink_packet *packet)
{
    (void)user;
    (void)packet;
}

/* A tap calls back, or has a descriptor. */
static void tap_has_one_reader(void)
{
    streamlink_flow *flow = check_flow(engine, "one reader");
    streamlink_tap *tap = NULL;
    OK(streamlink_flow_tap(flow, "tap", &tap, &error));
    OK(streamlink_tap_set_callback(tap, nothing, NULL, &error));
    CHECK(streamlink_tap_fd(tap) == -1);
    streamlink_tap_destroy(tap);
    CHECK(streamlink_tap_fd(tap) == -1);
    streamlink_flow_destroy(flow);
    flow = check_flow(engine, "no callback");
    OK(streamlink_flow_tap(flow, "tap", &tap, &error));
    CHECK(streamlink_tap_fd(tap) >= 0);
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_tap_set_callback(tap, nothing, NULL, &error));
    streamlink_tap_destroy(tap);
    streamlink_flow_destroy(flow);
}

/* Errors of the second priority of ETSI TR 101 290: packets with the transport error indicator. */
static void transport_errors(void)
{
    const struct timespec pause = {0, 50 * 1000 * 1000};
    streamlink_flow *flow = check_flow(engine, "transport errors");
    streamlink_app_source *source = NULL;
    streamlink_endpoint_stats endpoint;
    streamlink_event_info info;
    uint8_t payload[7 * 188];
    int i, told = 0;
    memset(payload, 0xff, sizeof payload);
    for (i = 0; i < 7; i++) {
        payload[i * 188] = 0x47;
        payload[i * 188 + 1] = 0x81; /* the indicator, and PID 0x100 */
        payload[i * 188 + 2] = 0x00;
        payload[i * 188 + 3] = 0x10;
    }
    OK(streamlink_flow_app_source(flow, "in", &source, &error));
    STREAMLINK_INIT(info);
    do { /* the counters are about a second old */
        streamlink_packet *packet = NULL;
        streamlink_event *event = NULL;
        OK(streamlink_packet_copy(STREAMLINK_PACKET_KIND_DATAGRAM, 0, payload, sizeof payload, &packet, &error));
        CHECK(streamlink_app_source_give(source, &packet, 1) == STREAMLINK_STATUS_OK);
        nanosleep(&pause, NULL);
        endpoint = endpoint_of(flow, 0, NULL);
        while (streamlink_flow_next_event(flow, 0, &event, NULL) == STREAMLINK_STATUS_OK) {
            streamlink_event_get(event, &info);
            told |= info.kind == STREAMLINK_EVENT_KIND_TRANSPORT_ERROR && strcmp(info.reason, "transport") == 0;
            streamlink_event_free(event);
        }
    } while (endpoint.transport_errors == 0 || !told);
    CHECK(endpoint.crc_errors == 0 && endpoint.pcr_repetition_errors == 0 && endpoint.track_count == 0);
    streamlink_app_source_destroy(source);
    streamlink_flow_destroy(flow);
}

/* The switch of an RTMP source: two addresses on one port, each with a key of its own. */
static void rtmp_failover(void)
{
    streamlink_flow_builder *builder = NULL;
    streamlink_source *source = NULL;
    streamlink_flow *flow = NULL;
    streamlink_text *servers[2], *keys[2];
    int i;
    OK(streamlink_flow_builder_create("two addresses", 1000000, &builder, &error));
    OK(streamlink_source_create("venue", "rtmp://127.0.0.1:0/live?mode=listener", &source, &error));
    OK(streamlink_source_set(source, "failover", "true", &error));
    OK(streamlink_flow_builder_add_source(builder, source, &error));
    OK(streamlink_flow_start(engine, builder, &flow, &error));
    for (i = 0; i < 2; i++) {
        const char *name = i == 0 ? "venue" : "venue-backup";
        OK(streamlink_flow_input_server_and_key(flow, name, &servers[i], &keys[i], &error));
        CHECK(streamlink_text_length(keys[i]) >= 32);
    }
    CHECK(strcmp(streamlink_text_data(servers[0]), streamlink_text_data(servers[1])) == 0);
    CHECK(strcmp(streamlink_text_data(keys[0]), streamlink_text_data(keys[1])) != 0);
    for (i = 0; i < 2; i++) {
        streamlink_text_free(servers[i]);
        streamlink_text_free(keys[i]);
    }
    FAILS(STREAMLINK_STATUS_INVALID_CONFIG, streamlink_flow_add_source(flow, source, &error));
    streamlink_flow_destroy(flow);
    streamlink_source_destroy(source);
    streamlink_flow_builder_destroy(builder);
}

/* Datagrams that a source refuses, and the number for each reason. */
static void refusals(void)
{
    const struct timespec pause = {0, 20 * 1000 * 1000};
    static const uint8_t transport_packet[188] = {0x47, 0x1f, 0xff, 0x10};
    streamlink_flow *flow = NULL;
    streamlink_text *url = NULL;
    streamlink_stats *stats = NULL;
    streamlink_endpoint_stats endpoint;
    streamlink_refusal_stats refusal;
    struct sockaddr_in address;
    const char *port;
    const int sender = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(sender >= 0);
    OK(streamlink_flow_start_json(engine,
                                  "{\"name\": \"refusals\", \"max_bandwidth\": \"1M\", \"sources\": [{\"name\": \"in\", "
                                  "\"url\": \"rtp://127.0.0.1:0\"}]}",
                                  &flow, &error));
    OK(streamlink_flow_input_address(flow, "in", &url, &error));
    port = strrchr(streamlink_text_data(url), ':');
    CHECK(port != NULL);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((uint16_t)atoi(port + 1));
    streamlink_text_free(url);
    do { /* MPEG-TS without RTP */
        CHECK(sendto(sender, transport_packet, sizeof transport_packet, 0, (struct sockaddr *)&address,
                     sizeof address) == (ssize_t)sizeof transport_packet);
        nanosleep(&pause, NULL);
    } while (endpoint_of(flow, 0, NULL).refusal_count == 0);
    OK(streamlink_flow_stats(flow, &stats, &error));
    STREAMLINK_INIT(endpoint);
    OK(streamlink_stats_endpoint(stats, 0, &endpoint, &error));
    STREAMLINK_INIT(refusal);
    OK(streamlink_stats_refusal(stats, 0, 0, &refusal, &error));
    CHECK(strcmp(refusal.reason, "refused_raw_transport_stream") == 0);
    CHECK(refusal.count > 0 && refusal.count == endpoint.refused && endpoint.malformed == 0);
    FAILS(STREAMLINK_STATUS_NOT_FOUND, streamlink_stats_refusal(stats, 0, 1, &refusal, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_stats_refusal(NULL, 0, 0, &refusal, &error));
    FAILS(STREAMLINK_STATUS_INVALID_ARGUMENT, streamlink_stats_refusal(stats, 0, 0, NULL, &error));
    streamlink_stats_free(stats);
    streamlink_flow_destroy(flow);
    close(sender);
}

int main(void)
{
    engine = check_engine();
    refusals();
    sources();
    tap_descriptor();
    tap_has_one_reader();
    rtmp_failover();
    transport_errors();
    streamlink_engine_destroy(engine);
    puts("ok");
    return 0;
}
