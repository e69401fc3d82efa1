/* What the C tests share. */
#ifndef CHECK_H
#define CHECK_H

#include "streamlink.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Ends the program when a condition does not hold, whatever NDEBUG says. */
#define CHECK(condition)                                                                                              \
    do {                                                                                                              \
        if (!(condition)) {                                                                                           \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                           \
            abort();                                                                                                  \
        }                                                                                                             \
    } while (0)

/* A call that must succeed. */
#define OK(call)                                                                                                      \
    do {                                                                                                              \
        streamlink_error *error = NULL;                                                                               \
        if ((call) != STREAMLINK_STATUS_OK) {                                                                         \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, streamlink_error_message(error));           \
            abort();                                                                                                  \
        }                                                                                                             \
        CHECK(error == NULL);                                                                                         \
    } while (0)

/* A call that must fail, with a status and a message. */
#define FAILS(expected, call)                                                                                         \
    do {                                                                                                              \
        streamlink_error *error = NULL;                                                                               \
        streamlink_status status = (call);                                                                            \
        if (status != (expected) || error == NULL || streamlink_error_status(error) != status ||                      \
            streamlink_error_message(error)[0] == '\0') {                                                             \
            fprintf(stderr, "%s:%d: %s: %d %s\n", __FILE__, __LINE__, #call, (int)status,                             \
                    streamlink_error_message(error));                                                                 \
            abort();                                                                                                  \
        }                                                                                                             \
        streamlink_error_free(error);                                                                                 \
    } while (0)

/* An engine with two threads. */
static inline streamlink_engine *check_engine(void)
{
    streamlink_engine_options options;
    streamlink_engine *engine = NULL;
    STREAMLINK_INIT(options);
    options.threads = 2;
    OK(streamlink_engine_create(&options, &engine, &error));
    return engine;
}

/* A flow from a source app://datagrams named "in" to a tap named "tap". */
static inline streamlink_flow *check_flow(streamlink_engine *engine, const char *name)
{
    char json[256];
    streamlink_flow *flow = NULL;
    snprintf(json, sizeof json,
             "{\"name\": \"%s\", \"max_bandwidth\": \"1G\", \"sources\": [{\"name\": \"in\", \"url\": "
             "\"app://datagrams\"}], \"outputs\": [{\"name\": \"tap\", \"url\": \"tap:\"}]}",
             name);
    OK(streamlink_flow_start_json(engine, json, &flow, &error));
    return flow;
}

/* Pushes so many packets, whose first byte is their number. */
static inline void check_push(streamlink_app_source *source, int count)
{
    uint8_t payload[188] = {0};
    int i;
    for (i = 0; i < count; i++) {
        streamlink_packet *packet = NULL;
        const streamlink_packet *one;
        payload[0] = (uint8_t)i;
        OK(streamlink_packet_copy(STREAMLINK_PACKET_KIND_DATAGRAM, 0, payload, sizeof payload, &packet, &error));
        one = packet;
        CHECK(streamlink_app_source_push(source, &one, 1) == STREAMLINK_STATUS_OK);
        streamlink_packet_free(packet);
    }
}

#endif
