/*
 * libstreamlink: moves live video from one source to any number of outputs.
 *
 * In ten lines: an engine owns the threads; a flow has one source, or several that back each other, and any number of
 * outputs, each given by a URL; it is started, tells events and statistics, and can be changed while it runs.
 *
 * Conventions
 *   - Every call that can fail returns a streamlink_status; 0 is success.
 *   - Where a call takes a `streamlink_error **`, it may be NULL. On failure it is filled with an error that the
 *     caller frees with streamlink_error_free(); on success it is not touched. No other out-parameter is touched
 *     on failure.
 *   - Handles have one owner, who passes them to the matching _destroy() or _free() function; NULL is allowed there.
 *   - Any handle may be used from any thread, but not after it was destroyed. Destroying one that has callbacks waits
 *     until they have returned; from within a callback it does not wait.
 *   - Callbacks come from threads of the engine. They may call this library, unless their description says otherwise.
 *     No exception may leave them.
 *   - Strings are UTF-8 and end with NUL. A string that is returned lives as long as the object that it came from.
 *   - Structs that begin with `size` can grow: STREAMLINK_INIT() fills it in, and what one side does not know is zero. A
 *     size below 8 or above 4096 bytes is STREAMLINK_STATUS_INVALID_ARGUMENT.
 *   - Numbers of enums are never given to something else. Where one is passed, its type is int32_t.
 *   - No call lets a panic out; one that happened within is STREAMLINK_STATUS_INTERNAL.
 *   - Lines "Safety" say what the compiler cannot check: breaking them is undefined behaviour.
 *
 * This file is generated from streamlink-ffi; do not edit it.
 */

#ifndef STREAMLINK_H
#define STREAMLINK_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/** The version of this header. streamlink_abi_version() is that of the library. */
#define STREAMLINK_VERSION_MAJOR 0
#define STREAMLINK_VERSION_MINOR 1
#define STREAMLINK_VERSION_PATCH 0

/** The version of this header as one number, as streamlink_abi_version() returns it. */
#define STREAMLINK_VERSION_NUMBER \
  (STREAMLINK_VERSION_MAJOR * 10000 + STREAMLINK_VERSION_MINOR * 100 + STREAMLINK_VERSION_PATCH)

/** Whether this header is of a version, or of a later one; also for `#if`. */
#define STREAMLINK_VERSION_CHECK(major, minor, patch) \
  (STREAMLINK_VERSION_NUMBER >= (major) * 10000 + (minor) * 100 + (patch))

/**
 * Declares what the library exports. A program may define it before it includes this header; STREAMLINK_STATIC stands for
 * a library that is linked statically.
 */
#ifndef STREAMLINK_API
#if defined(_WIN32) && !defined(STREAMLINK_STATIC)
#define STREAMLINK_API __declspec(dllimport)
#elif defined(__GNUC__) && !defined(_WIN32)
#define STREAMLINK_API __attribute__((visibility("default")))
#else
#define STREAMLINK_API
#endif
#endif

/** Marks what later versions may not have; empty if STREAMLINK_NO_DEPRECATION is defined. */
#ifndef STREAMLINK_DEPRECATED
#if defined(STREAMLINK_NO_DEPRECATION)
#define STREAMLINK_DEPRECATED(note)
#elif defined(__GNUC__)
#define STREAMLINK_DEPRECATED(note) __attribute__((deprecated(note)))
#elif defined(_MSC_VER)
#define STREAMLINK_DEPRECATED(note) __declspec(deprecated(note))
#else
#define STREAMLINK_DEPRECATED(note)
#endif
#endif

/** Prepares a struct that begins with its size: all zero, and the size of this header's version of it. */
#define STREAMLINK_INIT(object) (memset(&(object), 0, sizeof(object)), (object).size = sizeof(object))

/**
 * Outcome of a call.
 */
enum streamlink_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * It succeeded.
   */
  STREAMLINK_STATUS_OK = 0,
  /**
   * An argument is NULL that must not be, or not valid UTF-8.
   */
  STREAMLINK_STATUS_INVALID_ARGUMENT = 1,
  /**
   * The configuration is wrong; the error names the field.
   */
  STREAMLINK_STATUS_INVALID_CONFIG = 2,
  /**
   * A local address is used by another socket or flow.
   */
  STREAMLINK_STATUS_ADDRESS_IN_USE = 4,
  /**
   * The operating system denies the address or the operation.
   */
  STREAMLINK_STATUS_PERMISSION_DENIED = 5,
  /**
   * There is no flow, source or output of that name.
   */
  STREAMLINK_STATUS_NOT_FOUND = 6,
  /**
   * The name is already taken.
   */
  STREAMLINK_STATUS_ALREADY_EXISTS = 7,
  /**
   * The flow or the engine has stopped.
   */
  STREAMLINK_STATUS_STOPPED = 8,
  /**
   * Another failure of the operating system.
   */
  STREAMLINK_STATUS_IO = 9,
  /**
   * An error within the library; please report it.
   */
  STREAMLINK_STATUS_INTERNAL = 10,
  /**
   * Nothing came in the time that was given.
   */
  STREAMLINK_STATUS_TIMED_OUT = 11,
  /**
   * The flow is at its maximum bandwidth: the packet was dropped, and later ones may pass.
   */
  STREAMLINK_STATUS_FULL = 12,
  /**
   * The packet is malformed, or of another family than the source.
   */
  STREAMLINK_STATUS_BAD_PACKET = 13,
  /**
   * This build of the library lacks what the call needs.
   */
  STREAMLINK_STATUS_UNSUPPORTED = 14,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum streamlink_status streamlink_status;
#else
typedef int32_t streamlink_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Importance of a line of the log.
 */
enum streamlink_log_level
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Nothing.
   */
  STREAMLINK_LOG_LEVEL_OFF = 0,
  /**
   * Something has failed.
   */
  STREAMLINK_LOG_LEVEL_ERROR = 1,
  /**
   * Something is not as it should be.
   */
  STREAMLINK_LOG_LEVEL_WARNING = 2,
  /**
   * An event of the flow.
   */
  STREAMLINK_LOG_LEVEL_INFO = 3,
  /**
   * Details.
   */
  STREAMLINK_LOG_LEVEL_DEBUG = 4,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum streamlink_log_level streamlink_log_level;
#else
typedef int32_t streamlink_log_level;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Treatment of media above the maximum bandwidth of a flow.
 */
enum streamlink_bandwidth_policy
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Whole packets are dropped, of RTMP whole frames; of RTMP and RTSP all pictures up to the next key frame.
   */
  STREAMLINK_BANDWIDTH_POLICY_DROP = 0,
  /**
   * The source is disconnected.
   */
  STREAMLINK_BANDWIDTH_POLICY_DISCONNECT = 1,
  /**
   * Everything passes; an event and the counters tell.
   */
  STREAMLINK_BANDWIDTH_POLICY_WARN = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum streamlink_bandwidth_policy streamlink_bandwidth_policy;
#else
typedef int32_t streamlink_bandwidth_policy;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Way in which the sources of a flow back each other.
 */
enum streamlink_failover_policy
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * The source that delivers first is active; after a loss the flow stays with the backup.
   */
  STREAMLINK_FAILOVER_POLICY_STAY = 0,
  /**
   * Back to the first source when it has delivered for a time.
   */
  STREAMLINK_FAILOVER_POLICY_PREFER = 1,
  /**
   * All sources are merged packet by packet (SMPTE ST 2022-7); RTP, and SRT that carries RTP.
   */
  STREAMLINK_FAILOVER_POLICY_MERGE = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum streamlink_failover_policy streamlink_failover_policy;
#else
typedef int32_t streamlink_failover_policy;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Protocol of a source.
 */
enum streamlink_input
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * RTMP, pushed to us by a publisher.
   */
  STREAMLINK_INPUT_RTMP = 1,
  /**
   * RTMP, fetched by us from a server.
   */
  STREAMLINK_INPUT_RTMP_PULL = 2,
  /**
   * SRT, listener or caller.
   */
  STREAMLINK_INPUT_SRT = 3,
  /**
   * RTP over UDP.
   */
  STREAMLINK_INPUT_RTP = 4,
  /**
   * RTSP, recorded to us or fetched by us.
   */
  STREAMLINK_INPUT_RTSP = 5,
  /**
   * Datagrams pushed by this process.
   */
  STREAMLINK_INPUT_APP_DATAGRAMS = 6,
  /**
   * RTP packets pushed by this process.
   */
  STREAMLINK_INPUT_APP_RTP = 7,
  /**
   * FLV messages pushed by this process.
   */
  STREAMLINK_INPUT_APP_RTMP = 8,
  /**
   * The RTP packets of RTSP tracks, pushed by this process.
   */
  STREAMLINK_INPUT_APP_RTSP = 9,
  /**
   * MPEG-TS over UDP, without RTP.
   */
  STREAMLINK_INPUT_UDP = 10,
  /**
   * RIST, simple profile.
   */
  STREAMLINK_INPUT_RIST = 11,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum streamlink_input streamlink_input;
#else
typedef int32_t streamlink_input;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Kind of an event. A number is given once; a program must expect numbers that it does not know.
 */
enum streamlink_event_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * An event that is newer than this header: only its sentence is filled in.
   */
  STREAMLINK_EVENT_KIND_OTHER = 0,
  /**
   * The flow runs.
   */
  STREAMLINK_EVENT_KIND_FLOW_STARTED = 1,
  /**
   * The flow has stopped; no more events follow.
   */
  STREAMLINK_EVENT_KIND_FLOW_STOPPED = 2,
  /**
   * A source brings media. `peer`: who sends, if it is known.
   */
  STREAMLINK_EVENT_KIND_SOURCE_CONNECTED = 3,
  /**
   * A source brings no more media. `detail`: why.
   */
  STREAMLINK_EVENT_KIND_SOURCE_LOST = 4,
  /**
   * A source that calls will try again. `count`: attempts that have failed; `time_ms`: delay before the next one;
   * `detail`: reason of the failure. Attempts that fail for the same reason as the one before are not reported again.
   */
  STREAMLINK_EVENT_KIND_SOURCE_RETRYING = 5,
  /**
   * The flow has switched from the source `other` to the source `endpoint`. `time_ms`: the gap in the media.
   */
  STREAMLINK_EVENT_KIND_SWITCHED = 6,
  /**
   * An output is connected, or a player of it. `peer`: the destination or the player.
   */
  STREAMLINK_EVENT_KIND_OUTPUT_CONNECTED = 7,
  /**
   * An output, or a player of it, is lost. `peer`, `detail`: who and why.
   */
  STREAMLINK_EVENT_KIND_OUTPUT_LOST = 8,
  /**
   * An output will try again. `count`, `time_ms`, `detail`: as for a source.
   */
  STREAMLINK_EVENT_KIND_OUTPUT_RETRYING = 9,
  /**
   * A peer was turned away. `peer`, `detail`: its address and the reason; `other`: the application, path or stream id
   * that it asked for; `count`: number of refusals since the last such event.
   */
  STREAMLINK_EVENT_KIND_PEER_REFUSED = 10,
  /**
   * The source brings more than the flow's maximum bandwidth. `count`: packets above it.
   */
  STREAMLINK_EVENT_KIND_BANDWIDTH_EXCEEDED = 11,
  /**
   * An output does not keep up. `count`: packets that it has lost in all.
   */
  STREAMLINK_EVENT_KIND_OUTPUT_LAGGING = 12,
  /**
   * Composition of the media of a source, once known: `detail`.
   */
  STREAMLINK_EVENT_KIND_MEDIA_DESCRIBED = 13,
  /**
   * MPEG-TS is turned into RTMP messages. `detail`: what passes; `other`: what is left out.
   */
  STREAMLINK_EVENT_KIND_REMUXED = 14,
  /**
   * The reader was too slow. `count`: events before this one that are gone.
   */
  STREAMLINK_EVENT_KIND_MISSED = 15,
  /**
   * The MPEG-TS of a source has failed a check of ETSI TR 101 290. `detail`: which; `count`: how often since the last
   * such event.
   */
  STREAMLINK_EVENT_KIND_TRANSPORT_ERROR = 16,
  /**
   * Packets of an SRT source carry a time far ahead of its clock, and were timed by their arrival. `count`: how many.
   */
  STREAMLINK_EVENT_KIND_TIMESTAMPS_AHEAD = 17,
  /**
   * Packets are larger than the payload size of an SRT output, and were not sent. `count`: how many; `detail`: the
   * largest payload that it sends.
   */
  STREAMLINK_EVENT_KIND_OUTPUT_OVERSIZED = 18,
  /**
   * Two senders use the same SSRC on the port of an RTP source. The packets of the one that was there first pass.
   * `peer`: the sender that was heard last.
   */
  STREAMLINK_EVENT_KIND_SENDERS_COLLIDE = 19,
  /**
   * A source or output calls out to an address of this machine, and its URL does not say `mode=caller`: it may have
   * been meant to listen there. `peer`: the address.
   */
  STREAMLINK_EVENT_KIND_CALLS_OWN_ADDRESS = 20,
  /**
   * The payload at a UDP source or output is not whole transport packets of 188 bytes. `detail`: the problem; `count`:
   * packets since the last such event.
   */
  STREAMLINK_EVENT_KIND_UNEXPECTED_PAYLOAD = 21,
  /**
   * A group of connections that an SRT source receives from has one more member. `peer`: its address.
   */
  STREAMLINK_EVENT_KIND_MEMBER_CONNECTED = 22,
  /**
   * A group of connections that an SRT source receives from has lost a member; the others go on. `peer`, `detail`: its
   * address and why.
   */
  STREAMLINK_EVENT_KIND_MEMBER_LOST = 23,
  /**
   * Outputs in a region on other machines do not run, or nothing is heard of them. `endpoint`: the region, here and
   * below; `count`: outputs that wait; `detail`: why.
   */
  STREAMLINK_EVENT_KIND_REGION_WAITING = 24,
  /**
   * The link to a region has failed, and will be tried again. `count`, `time_ms`, `detail`: as for a source.
   */
  STREAMLINK_EVENT_KIND_REGION_RETRYING = 25,
  /**
   * The link to a region does not keep up. `count`: packets that it has lost in all.
   */
  STREAMLINK_EVENT_KIND_REGION_LAGGING = 26,
  /**
   * A leg of the link to a region is connected. `other`: its address.
   */
  STREAMLINK_EVENT_KIND_REGION_LEG_CONNECTED = 27,
  /**
   * A leg of the link to a region is lost. `other`, `detail`: its address and why.
   */
  STREAMLINK_EVENT_KIND_REGION_LEG_LOST = 28,
  /**
   * A remark of the link to a region: `detail`.
   */
  STREAMLINK_EVENT_KIND_REGION_NOTICE = 29,
  /**
   * A source has given up missing packets early, because it may hold no more of those behind them. `count`: packets since
   * the last such event.
   */
  STREAMLINK_EVENT_KIND_GAP_GIVEN_UP = 30,
  /**
   * A leg of the link to a region loses more than QUIC makes up for, so that its media is better carried over SRT.
   * `other`: its address; `count`: loss of the last seconds in hundredths of a percent; `time_ms`: its round trip.
   */
  STREAMLINK_EVENT_KIND_REGION_LEG_LOSSY = 31,
  /**
   * A member was added to the group of connections that a caller is, and is called now. `other`: its address as
   * configured.
   */
  STREAMLINK_EVENT_KIND_MEMBER_ADDED = 32,
  /**
   * A removed member has left the group of connections that a caller is; the others go on. `other`: its address as
   * configured.
   */
  STREAMLINK_EVENT_KIND_MEMBER_REMOVED = 33,
  /**
   * Packets of a source in a merge came after the merge window, and repair nothing. `count`: packets since the last such
   * event; `time_ms`: the window.
   */
  STREAMLINK_EVENT_KIND_MERGE_WINDOW_MISSED = 34,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum streamlink_event_kind streamlink_event_kind;
#else
typedef int32_t streamlink_event_kind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * The state of an endpoint.
 */
enum streamlink_state
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Not started, or stopped.
   */
  STREAMLINK_STATE_IDLE = 0,
  /**
   * Listening, or between two attempts to connect.
   */
  STREAMLINK_STATE_WAITING = 1,
  /**
   * Media flows, or can flow.
   */
  STREAMLINK_STATE_CONNECTED = 2,
  /**
   * Given up; the last event says why.
   */
  STREAMLINK_STATE_FAILED = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum streamlink_state streamlink_state;
#else
typedef int32_t streamlink_state;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Kind of a packet.
 */
enum streamlink_packet_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * A datagram with any payload, most often MPEG-TS: what SRT carries.
   */
  STREAMLINK_PACKET_KIND_DATAGRAM = 1,
  /**
   * An RTP packet, header included (RFC 3550).
   */
  STREAMLINK_PACKET_KIND_RTP = 2,
  /**
   * The body of an RTMP audio message (an FLV audio tag).
   */
  STREAMLINK_PACKET_KIND_RTMP_AUDIO = 3,
  /**
   * The body of an RTMP video message (an FLV video tag).
   */
  STREAMLINK_PACKET_KIND_RTMP_VIDEO = 4,
  /**
   * The body of an RTMP data message, such as onMetaData.
   */
  STREAMLINK_PACKET_KIND_RTMP_DATA = 5,
  /**
   * An RTP or RTCP packet of a track of an RTSP presentation.
   */
  STREAMLINK_PACKET_KIND_RTSP = 6,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum streamlink_packet_kind streamlink_packet_kind;
#else
typedef int32_t streamlink_packet_kind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * The kind of an error of a configuration. A number is given once; a program must expect numbers that it does not know.
 */
enum streamlink_config_error_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * A kind that is newer than this header.
   */
  STREAMLINK_CONFIG_ERROR_KIND_OTHER = 0,
  /**
   * The field must be set.
   */
  STREAMLINK_CONFIG_ERROR_KIND_MISSING = 1,
  /**
   * The value cannot be parsed.
   */
  STREAMLINK_CONFIG_ERROR_KIND_MALFORMED = 2,
  /**
   * The value is outside its range.
   */
  STREAMLINK_CONFIG_ERROR_KIND_OUT_OF_RANGE = 3,
  /**
   * The flow or the endpoint has no setting of this name.
   */
  STREAMLINK_CONFIG_ERROR_KIND_UNKNOWN_SETTING = 4,
  /**
   * Another endpoint or flow has the same name, or listens on the same address with the same key.
   */
  STREAMLINK_CONFIG_ERROR_KIND_DUPLICATE = 5,
  /**
   * The source cannot feed the output.
   */
  STREAMLINK_CONFIG_ERROR_KIND_PAIRING = 6,
  /**
   * The sources of the flow carry different media families.
   */
  STREAMLINK_CONFIG_ERROR_KIND_MIXED_FAMILIES = 7,
  /**
   * The output names a region that the engine does not know.
   */
  STREAMLINK_CONFIG_ERROR_KIND_UNKNOWN_REGION = 8,
  /**
   * Two settings exclude each other.
   */
  STREAMLINK_CONFIG_ERROR_KIND_CONFLICT = 9,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum streamlink_config_error_kind streamlink_config_error_kind;
#else
typedef int32_t streamlink_config_error_kind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Way in which a change was applied.
 */
enum streamlink_applied
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * In place: connections go on.
   */
  STREAMLINK_APPLIED_IN_PLACE = 0,
  /**
   * The changed endpoint alone closes its sockets, or opens them; its peers connect again. No other endpoint notices.
   */
  STREAMLINK_APPLIED_RECONNECT = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum streamlink_applied streamlink_applied;
#else
typedef int32_t streamlink_applied;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Handle by which the host pushes packets into a flow: its source `app://…`. May be used after the flow was stopped:
 * pushing is then STREAMLINK_STATUS_STOPPED.
 */
typedef struct streamlink_app_source streamlink_app_source;

/**
 * Owns the threads on which flows run, and the ports that flows share.
 */
typedef struct streamlink_engine streamlink_engine;

/**
 * Error of a call. Freed with streamlink_error_free().
 */
typedef struct streamlink_error streamlink_error;

/**
 * Something that happened in a flow.
 */
typedef struct streamlink_event streamlink_event;

/**
 * A reader of the events of all flows of an engine.
 */
typedef struct streamlink_event_reader streamlink_event_reader;

/**
 * A running flow.
 */
typedef struct streamlink_flow streamlink_flow;

/**
 * A flow under construction.
 */
typedef struct streamlink_flow_builder streamlink_flow_builder;

/**
 * Flows that were read from JSON, and are valid.
 */
typedef struct streamlink_flow_configs streamlink_flow_configs;

/**
 * Names of the flows that run in an engine.
 */
typedef struct streamlink_flow_list streamlink_flow_list;

/**
 * An output under construction.
 */
typedef struct streamlink_output streamlink_output;

/**
 * One unit of media. It never changes; the handle has one owner, and the bytes are shared with all other handles and
 * outputs that hold the same packet.
 */
typedef struct streamlink_packet streamlink_packet;

/**
 * A source under construction.
 */
typedef struct streamlink_source streamlink_source;

/**
 * A flow at one moment.
 */
typedef struct streamlink_stats streamlink_stats;

/**
 * Handle by which the host takes packets out of a flow: an output `tap:` of that flow. A host that is slower than the source
 * loses the oldest packets, and the output's `dropped` counts them.
 */
typedef struct streamlink_tap streamlink_tap;

/**
 * A text that the caller owns. Freed with streamlink_text_free().
 */
typedef struct streamlink_text streamlink_text;

/**
 * One error of a configuration. Texts end with NUL and live as long as the error that holds them. Fields are only ever
 * added, at the end.
 */
typedef struct {
  /**
   * The size of this struct, in bytes; set by the caller.
   */
  size_t size;
  /**
   * The path of the field, as in "sources[0].latency"; "" if the whole text is wrong.
   */
  const char *field;
  /**
   * Description of the fault, for people, without the path.
   */
  const char *message;
  /**
   * A streamlink_config_error_kind.
   */
  int32_t kind;
  /**
   * The line of the field in the JSON text, from 1; 0: there is no such text.
   */
  uint32_t line;
  /**
   * The column of the field in its line, from 1, in bytes; 0: there is no such text.
   */
  uint32_t column;
  /**
   * Zero.
   */
  int32_t reserved;
} streamlink_config_error;

/**
 * Gets the lines of the log, from any thread. `level` is a streamlink_log_level; the texts live until it returns. It
 * should return soon. It may call this library; what it calls may write to the log in turn.
 */
typedef void (*streamlink_log)(void *user, int32_t level, const char *target, const char *message);

/**
 * A name for a place that outputs can leave from. Fields are only ever added, at the end.
 */
typedef struct {
  /**
   * The size of this struct, in bytes; the same for all regions of an array.
   */
  size_t size;
  /**
   * Its name.
   */
  const char *name;
  /**
   * A local address, to which the sockets of outputs are bound; NULL if there is an interface.
   */
  const char *address;
  /**
   * The name of an interface; NULL if there is an address.
   */
  const char *interface_name;
} streamlink_region;

/**
 * Request of a peer to publish to a source or to play an output that listens. Its address is on the allowlist, and has
 * been proved. Texts are as the peer has sent them, and live until the callback returns.
 */
typedef struct {
  /**
   * The size of this struct, in bytes.
   */
  size_t size;
  /**
   * The name of the flow.
   */
  const char *flow;
  /**
   * The name of the requested source or output.
   */
  const char *endpoint;
  /**
   * The name of the protocol: "SRT", "RTMP" or "RTSP".
   */
  const char *protocol;
  /**
   * The address of the peer, as in "192.0.2.1:9000" or "[2001:db8::1]:9000".
   */
  const char *peer;
  /**
   * The stream id of an SRT caller; NULL if there is none.
   */
  const char *stream_id;
  /**
   * The application of an RTMP peer; NULL otherwise.
   */
  const char *app;
  /**
   * The stream key of an RTMP peer in clear text, possibly with parameters that the peer has appended, as in
   * "KEY?token=abc"; NULL otherwise.
   */
  const char *key;
  /**
   * The path of an RTSP peer, without the leading slash; NULL otherwise.
   */
  const char *path;
  /**
   * The user name; NULL if there is none. That of an RTSP peer has been proved with its password. An SRT caller only
   * claims it, by "u=" in its stream id.
   */
  const char *user;
  /**
   * Not 0: the peer sends, to a source. 0: it receives, from an output.
   */
  int32_t publishes;
} streamlink_access_request;

/**
 * The host's decision about a peer. It is all zero when the callback is called: a callback that writes nothing refuses.
 */
typedef struct {
  /**
   * The size of this struct, in bytes.
   */
  size_t size;
  /**
   * The code with which it is refused: 1000 to 1999 stand for HTTP statuses plus 1000 (1401: unauthorized), 2000 and
   * above are the host's own; others, also 0, stand for 1403. SRT sends the code, which libsrt shows to its user.
   * RTSP answers with the HTTP status if that is an error of RTSP too, and with 403 otherwise. RTMP has no codes.
   */
  uint32_t reject;
  /**
   * Not empty: an accepted SRT caller needs this passphrase of 10 to 79 bytes, which ends with NUL. Another length
   * refuses the peer. Empty: a caller needs the passphrase of the source or output, if that has one.
   */
  char passphrase[80];
  /**
   * Not 0: the peer is accepted. 0: it is refused.
   */
  int32_t accept;
} streamlink_access_reply;

/**
 * Callback that decides about every publisher and player of a listener whom the allowlist admits, before it is served.
 * It is called on threads of its own, several at the same time (16 for each port at most), which no media waits for. A
 * peer is refused with code 1500 when there is no answer within 2 seconds. Stopping a flow waits until questions about
 * its peers have returned.
 */
typedef void (*streamlink_access)(void *user,
                                  const streamlink_access_request *request,
                                  streamlink_access_reply *reply);

/**
 * Settings of an engine. Zeroes stand for the defaults; see STREAMLINK_INIT(). Nothing is kept that it points to, except
 * for the function and its pointer.
 */
typedef struct {
  /**
   * The size of this struct, in bytes.
   */
  size_t size;
  /**
   * Threads, 1 to 1024; 0: one a processor core. Flows and connections add none.
   */
  uint32_t threads;
  /**
   * Number of regions; 4096 at most.
   */
  uint32_t region_count;
  /**
   * Regions that outputs can leave from.
   */
  const streamlink_region *regions;
  /**
   * The host name that input addresses and playback URLs show for listeners on every address; NULL: the first address
   * of this machine that is not a loopback one.
   */
  const char *public_host;
  /**
   * Asked about the publishers and players of listeners; NULL: nobody is asked.
   */
  streamlink_access access;
  /**
   * Handed to `access`.
   */
  void *access_user;
  /**
   * The certificates, its own first, and the private key that listeners show when they speak TLS (rtmps, rtsps), as
   * PEM.
   */
  const uint8_t *tls_certificates;
  /**
   * The length of `tls_certificates` in bytes; 0: there are none.
   */
  size_t tls_certificates_length;
  /**
   * The private key.
   */
  const uint8_t *tls_key;
  /**
   * The length of `tls_key` in bytes.
   */
  size_t tls_key_length;
  /**
   * Certificates, as PEM, that callers trust beside those of the system: of authorities, and of servers themselves. The
   * setting `tls_fingerprint` of a caller trusts a certificate by its SHA-256 fingerprint instead.
   */
  const uint8_t *tls_roots;
  /**
   * The length of `tls_roots` in bytes; 0: there are none.
   */
  size_t tls_roots_length;
  /**
   * Connections of one peer address to a listening port that may be open and have not said yet what they want, 1 to
   * 1000000; 0: 128. The addresses of an IPv6 /64 network count as one, here and below.
   */
  uint32_t peer_pending;
  /**
   * Connections of one peer address to a listening port that may be open in all, 1 to 1000000; 0: 1000.
   */
  uint32_t peer_connections;
  /**
   * Attempts of one peer address per second that may be refused at a listening port, such as wrong passwords, before
   * its next ones are turned away unseen, 1 to 1000000; 0: 20.
   */
  uint32_t peer_refusals_per_second;
  /**
   * Must be 0.
   */
  uint32_t reserved;
} streamlink_engine_options;

/**
 * A setting of a flow or of an endpoint. Texts end with NUL, are "" where there is nothing to say, and live as long as
 * the program. Fields are only ever added, at the end.
 */
typedef struct {
  /**
   * The size of this struct, in bytes; set by the caller.
   */
  size_t size;
  /**
   * The name in URLs, in JSON, and for streamlink_source_set() and streamlink_output_set().
   */
  const char *name;
  /**
   * Other names that are read as the same setting, separated by commas.
   */
  const char *aliases;
  /**
   * The type of the value: "number", "boolean", "choice", "text" or "form".
   */
  const char *value_type;
  /**
   * The range as text: "0 to 10000", "true or false", "auto, udp, tcp", or the form of the text.
   */
  const char *range;
  /**
   * The unit of a number: "ms", "bytes".
   */
  const char *unit;
  /**
   * The default.
   */
  const char *default_value;
  /**
   * The meaning, in one sentence.
   */
  const char *summary;
  /**
   * The flows and endpoints that have it, separated by commas: "SRT caller source, SRT caller output".
   */
  const char *scopes;
  /**
   * The minimum of a number, or of the length of a text in bytes.
   */
  uint64_t min;
  /**
   * The maximum of a number, or of the length of a text in bytes.
   */
  uint64_t max;
  /**
   * Not 0: the value is secret.
   */
  int32_t secret;
  /**
   * Zero.
   */
  int32_t reserved;
} streamlink_setting;

/**
 * Gets the events of a flow, or of all flows of an engine, one at a time, from any thread. The event lives until it returns. It may call this library,
 * and destroy its flow.
 */
typedef void (*streamlink_event_callback)(void *user, const streamlink_event *event);

/**
 * An event, for reading. All texts end with NUL, are "" where there is nothing to say, and live as long as the event.
 */
typedef struct {
  /**
   * The size of this struct, in bytes; set by the caller.
   */
  size_t size;
  /**
   * A streamlink_event_kind.
   */
  int32_t kind;
  /**
   * See streamlink_event_kind.
   */
  uint32_t time_ms;
  /**
   * See streamlink_event_kind.
   */
  uint64_t count;
  /**
   * The source or output that it is about.
   */
  const char *endpoint;
  /**
   * See streamlink_event_kind.
   */
  const char *other;
  /**
   * The address of a peer, as in "192.0.2.1:9000".
   */
  const char *peer;
  /**
   * See streamlink_event_kind.
   */
  const char *detail;
  /**
   * The event as a sentence, for a log.
   */
  const char *sentence;
  /**
   * The name of the flow; "" for STREAMLINK_EVENT_KIND_MISSED of streamlink_event_reader_next(), which is about all flows.
   */
  const char *flow;
  /**
   * The stable name of the class of the reason, as in "timed_out" or "refused_not_allowed", the same as in metrics; of
   * a transport error the name of the check, as in "continuity".
   */
  const char *reason;
  /**
   * The time of the event, in milliseconds since 1970-01-01 UTC, by the system's clock.
   */
  int64_t at_ms;
} streamlink_event_info;

/**
 * A source or an output at one moment. Counters count from the endpoint's start and never go back. Texts end with NUL,
 * are "" where there is nothing to say, and live as long as the snapshot. Fields are only ever added, at the end.
 */
typedef struct {
  /**
   * The size of this struct, in bytes; set by the caller.
   */
  size_t size;
  /**
   * The endpoint's name.
   */
  const char *name;
  /**
   * Its description.
   */
  const char *description;
  /**
   * Name of its protocol, such as "RTP".
   */
  const char *protocol;
  /**
   * The URL that an encoder sends to, of a source that listens; the one that a player fetches from, of an output that
   * listens.
   */
  const char *url;
  /**
   * Composition of the media, once known.
   */
  const char *media;
  /**
   * Not 0: a source. 0: an output.
   */
  int32_t is_source;
  /**
   * A streamlink_state.
   */
  int32_t state;
  /**
   * Of a source, not 0: the flow is fed by it.
   */
  int32_t active;
  /**
   * Not 0: the connection is encrypted.
   */
  int32_t encrypted;
  /**
   * For how long it has been connected, in milliseconds; -1: it is not.
   */
  int64_t connected_ms;
  /**
   * Number of recoveries after a loss.
   */
  uint64_t reconnections;
  /**
   * Bytes handed on: RTP packets with their header, without UDP and IP.
   */
  uint64_t bytes;
  /**
   * Packets handed on.
   */
  uint64_t packets;
  /**
   * Bits per second, over the last second.
   */
  uint64_t bit_rate;
  /**
   * Packets that never came, or came after their time.
   */
  uint64_t lost;
  /**
   * Packets that came out of order and were put in their place.
   */
  uint64_t recovered;
  /**
   * Packets that were sent again.
   */
  uint64_t retransmitted;
  /**
   * Packets that came and were not handed on.
   */
  uint64_t dropped;
  /**
   * Datagrams that could not be read.
   */
  uint64_t malformed;
  /**
   * Datagrams or connections of peers that were refused, for any reason; see streamlink_stats_refusal().
   */
  uint64_t refused;
  /**
   * Of a source in a merge: packets that no other source has brought.
   */
  uint64_t unique_packets;
  /**
   * Of a source in a merge: packets that came after the window was over.
   */
  uint64_t late;
  /**
   * The interarrival jitter of RTP sources, in microseconds.
   */
  uint64_t jitter_us;
  /**
   * MPEG-TS, ETSI TR 101 290: losses of sync (1.1), wrong sync bytes (1.2), PAT errors (1.3), continuity count errors
   * (1.4), PMT errors (1.5) and PID errors (1.6); about a second old.
   */
  uint64_t sync_losses;
  /**
   * See sync_losses.
   */
  uint64_t sync_errors;
  /**
   * See sync_losses.
   */
  uint64_t pat_errors;
  /**
   * See sync_losses.
   */
  uint64_t continuity_errors;
  /**
   * See sync_losses.
   */
  uint64_t pmt_errors;
  /**
   * See sync_losses.
   */
  uint64_t pid_errors;
  /**
   * The round trip, in microseconds, of protocols that measure it.
   */
  uint64_t round_trip_us;
  /**
   * The latency that both ends agreed on, in microseconds, of SRT.
   */
  uint64_t latency_us;
  /**
   * The time between the oldest and the newest packet that are held for their moment, in microseconds, of SRT sources.
   */
  uint64_t buffered_us;
  /**
   * Video frames per second, of RTMP sources.
   */
  double video_frame_rate;
  /**
   * Audio frames per second, of RTMP sources.
   */
  double audio_frame_rate;
  /**
   * Number of players of an output that listens; see streamlink_stats_player().
   */
  size_t player_count;
  /**
   * Number of PIDs in the MPEG-TS of a source; see streamlink_stats_pid().
   */
  size_t pid_count;
  /**
   * The address of the sender of a connected source, or of the server that a connected caller has reached.
   */
  const char *peer;
  /**
   * The last error: the loss of a connection, a failed attempt at one, or the refusal of a peer. It stays when the
   * endpoint has recovered.
   */
  const char *last_error;
  /**
   * The stable name of the class of the last error, as in "timed_out".
   */
  const char *last_error_kind;
  /**
   * The address of the peer that the last error is about.
   */
  const char *last_error_peer;
  /**
   * Milliseconds since the last error; -1: there was none.
   */
  int64_t last_error_age_ms;
  /**
   * Packets of a source that arrived again after they had arrived. They are not counted in dropped.
   */
  uint64_t duplicates;
  /**
   * Packets of an encrypted source that could not be decrypted, were not encrypted, or were altered on their way.
   */
  uint64_t undecrypted;
  /**
   * MPEG-TS, ETSI TR 101 290: transport errors (2.1), CRC errors (2.2), PCR repetition errors (2.3a), PCR discontinuity
   * errors (2.3b), PTS errors (2.5) and CAT errors (2.6); about a second old.
   */
  uint64_t transport_errors;
  /**
   * See transport_errors.
   */
  uint64_t crc_errors;
  /**
   * See transport_errors.
   */
  uint64_t pcr_repetition_errors;
  /**
   * See transport_errors.
   */
  uint64_t pcr_discontinuity_errors;
  /**
   * See transport_errors.
   */
  uint64_t pts_errors;
  /**
   * See transport_errors.
   */
  uint64_t cat_errors;
  /**
   * Number of tracks of its media; see streamlink_stats_track().
   */
  size_t track_count;
  /**
   * Not 0: the endpoint is enabled. 0: it holds its configuration, name and counters, and no sockets.
   */
  int32_t enabled;
  /**
   * Zero.
   */
  int32_t reserved;
  /**
   * Repair packets of forward error correction: received by a source, or sent by an output.
   */
  uint64_t repairs;
  /**
   * Packets of a source that were rebuilt from repair packets.
   */
  uint64_t rebuilt;
  /**
   * Packets of a source that were missing and could not be rebuilt from repair packets.
   */
  uint64_t unrepaired;
  /**
   * Number of members of a group of connections (bonding); see streamlink_stats_member().
   */
  size_t member_count;
  /**
   * Number of reasons for which peers were refused; see streamlink_stats_refusal().
   */
  size_t refusal_count;
  /**
   * The region that an output sends from.
   */
  const char *region;
  /**
   * The node of a region on other machines that runs the output, or has run it last.
   */
  const char *node;
  /**
   * The URL with the IPv4 address of this machine, of a source or an output that listens on [::], which is reached over
   * both families.
   */
  const char *url_ipv4;
} streamlink_endpoint_stats;

/**
 * A player of an output that listens, at one moment.
 */
typedef struct {
  /**
   * The size of this struct, in bytes; set by the caller.
   */
  size_t size;
  /**
   * Its address, as in "192.0.2.1:9000"; lives as long as the snapshot.
   */
  const char *peer;
  /**
   * For how long it has been connected, in milliseconds.
   */
  uint64_t connected_ms;
  /**
   * Bytes sent to it, repeats not counted.
   */
  uint64_t bytes;
  /**
   * Packets sent to it, repeats not counted.
   */
  uint64_t packets;
  /**
   * Packets sent again.
   */
  uint64_t retransmitted;
  /**
   * Packets that it reported lost.
   */
  uint64_t lost;
  /**
   * Packets given up for it.
   */
  uint64_t dropped;
  /**
   * The round trip, in microseconds.
   */
  uint64_t round_trip_us;
} streamlink_player_stats;

/**
 * A member of a group of connections (bonding), at one moment.
 */
typedef struct {
  /**
   * The size of this struct, in bytes; set by the caller.
   */
  size_t size;
  /**
   * Its address: as it was configured for a caller, or that of a caller of ours; lives as long as the snapshot.
   */
  const char *address;
  /**
   * For how long it has been connected, in milliseconds; -1: it is not.
   */
  int64_t connected_ms;
  /**
   * Packets received or sent over it, repeats not counted.
   */
  uint64_t packets;
  /**
   * Bytes that were delivered from it, or sent over it.
   */
  uint64_t bytes;
  /**
   * Received packets that another member had brought before.
   */
  uint64_t redundant;
  /**
   * Packets that were missing on it at first, or that the peer has reported lost.
   */
  uint64_t lost;
  /**
   * Packets sent again.
   */
  uint64_t retransmitted;
  /**
   * Packets given up for it.
   */
  uint64_t dropped;
  /**
   * The round trip, in microseconds.
   */
  uint64_t round_trip_us;
  /**
   * 1 if it carries the media; 0 if it stands by, as in a main/backup group, or is not connected.
   */
  int32_t active;
  /**
   * Loss over the last seconds, in hundredths of a percent, of a leg of a region whose link measures it; otherwise 0.
   */
  uint32_t recent_loss;
} streamlink_member_stats;

/**
 * Number of refusals of peers for one reason, at one moment.
 */
typedef struct {
  /**
   * The size of this struct, in bytes; set by the caller.
   */
  size_t size;
  /**
   * The stable name of the reason, as in "refused_not_allowed", the same as in events; lives as long as the snapshot.
   */
  const char *reason;
  /**
   * Number of datagrams or connections that were refused for it.
   */
  uint64_t count;
} streamlink_refusal_stats;

/**
 * One PID of an MPEG-TS source, at one moment.
 */
typedef struct {
  /**
   * The size of this struct, in bytes; set by the caller.
   */
  size_t size;
  /**
   * The packet identifier, 0 to 8191.
   */
  uint32_t pid;
  /**
   * The stream type from the PMT (ISO/IEC 13818-1 table 2-34); -1: it is not in a PMT.
   */
  int32_t stream_type;
  /**
   * Transport packets.
   */
  uint64_t packets;
  /**
   * Continuity counters that did not follow the one before.
   */
  uint64_t continuity_errors;
} streamlink_pid_stats;

/**
 * One track of the media of a source, or of that from which an output is remultiplexed, at one moment. What is not known,
 * or does not apply to its kind, is 0 or "". Texts live as long as the snapshot. Fields are only ever added, at the end.
 */
typedef struct {
  /**
   * The size of this struct, in bytes; set by the caller.
   */
  size_t size;
  /**
   * The name of the codec, as in "H.264".
   */
  const char *codec;
  /**
   * The name of the profile, as in "High".
   */
  const char *profile;
  /**
   * The stable name of the reason why it is left out, as in "no_carriage" or "scrambled"; "": it is carried.
   */
  const char *left_out;
  /**
   * The packet identifier, 0 to 8191.
   */
  uint32_t pid;
  /**
   * The number of the program that names it.
   */
  uint32_t program;
  /**
   * The width of the picture, in pixels.
   */
  uint32_t width;
  /**
   * The height of the picture, in pixels.
   */
  uint32_t height;
  /**
   * The sample rate of the sound, in Hz.
   */
  uint32_t sample_rate;
  /**
   * The number of channels of the sound.
   */
  uint32_t channels;
  /**
   * Pictures per second.
   */
  double frame_rate;
  /**
   * Bits per second of its payload, over the last second or so.
   */
  uint64_t bit_rate;
  /**
   * The number of the track in RTMP (0 is the main one), or of its section in the SDP of RTSP; -1: it has none.
   */
  int32_t track;
  /**
   * Zero.
   */
  int32_t reserved;
} streamlink_track;

/**
 * The link of a flow to a region on other machines, at one moment. Texts live as long as the snapshot. Fields are only
 * ever added, at the end.
 */
typedef struct {
  /**
   * The size of this struct, in bytes; set by the caller.
   */
  size_t size;
  /**
   * The name of the region.
   */
  const char *name;
  /**
   * Reason for which its outputs wait, if the link has said so or has failed; "" otherwise.
   */
  const char *waiting;
  /**
   * A streamlink_state: connected while a leg is, or an output is reported, and waiting otherwise.
   */
  int32_t state;
  /**
   * Outputs of the flow in the region.
   */
  uint32_t outputs;
  /**
   * Number of failures of the link.
   */
  uint64_t restarts;
  /**
   * Bytes that the link has taken from the flow, once for all outputs.
   */
  uint64_t bytes;
  /**
   * Packets that the link has taken from the flow.
   */
  uint64_t packets;
  /**
   * Bits per second, over the last second.
   */
  uint64_t bit_rate;
  /**
   * Packets that the link has lost, because it did not keep up.
   */
  uint64_t dropped;
  /**
   * Number of legs that carry the flow; see streamlink_stats_region_leg().
   */
  size_t leg_count;
} streamlink_region_stats;

/**
 * Called once, when nobody needs the bytes any more, from any thread.
 */
typedef void (*streamlink_release)(void *user);

/**
 * Gets the packets of a tap, one at a time. The packet lives until it returns; streamlink_packet_clone() keeps it. It
 * should return soon: it runs on a thread that others need too. It may call this library, and destroy its tap.
 */
typedef void (*streamlink_tap_callback)(void *user, const streamlink_packet *packet);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The version of the library as a number: major * 10000 + minor * 100 + patch. Compare it with
 * STREAMLINK_VERSION_NUMBER of the header that the program was compiled with: the major numbers must be equal, and as
 * long as they are 0, the minor ones too.
 */
STREAMLINK_API
uint32_t streamlink_abi_version(void);

/**
 * The version of the library as text, as in "0.1.0". Lives as long as the program.
 */
STREAMLINK_API const char *streamlink_version_string(void);

/**
 * The status of the call that failed. NULL: STREAMLINK_STATUS_OK.
 *
 * # Safety
 * `error` is NULL or an error that was not freed.
 */
STREAMLINK_API streamlink_status streamlink_error_status(const streamlink_error *error);

/**
 * The path of the field that is wrong, as in "outputs[1].latency"; of several the first; of an error of the system the
 * endpoint that it is about, as in "source `venue`"; "" if there is neither. Lives as long as the error. NULL: "".
 *
 * # Safety
 * `error` is NULL or an error that was not freed.
 */
STREAMLINK_API
const char *streamlink_error_field(const streamlink_error *error);

/**
 * Description of the error, for people: all that is wrong, one error a line, if it is a configuration. Lives as long as the error.
 * NULL: "".
 *
 * # Safety
 * `error` is NULL or an error that was not freed.
 */
STREAMLINK_API
const char *streamlink_error_message(const streamlink_error *error);

/**
 * The number of errors of the configuration; see streamlink_error_get(). 0: it is not about a configuration, or NULL.
 *
 * # Safety
 * `error` is NULL or an error that was not freed.
 */
STREAMLINK_API
size_t streamlink_error_count(const streamlink_error *error);

/**
 * Fills in one error of a configuration, counted from 0, in the order of the fields; `detail->size` must be set. See
 * STREAMLINK_INIT(). STREAMLINK_STATUS_NOT_FOUND: there are not so many.
 *
 * # Safety
 * `error` is NULL or an error that was not freed; `detail` is NULL or points to a struct of the size that it says.
 */
STREAMLINK_API
streamlink_status streamlink_error_get(const streamlink_error *error,
                                       size_t index,
                                       streamlink_config_error *detail);

/**
 * Frees an error. NULL is allowed.
 *
 * # Safety
 * `error` is NULL or an error that was not freed.
 */
STREAMLINK_API void streamlink_error_free(streamlink_error *error);

/**
 * The text; it ends with NUL and lives as long as the object. NULL: "".
 *
 * # Safety
 * `text` is NULL or a text that was not freed.
 */
STREAMLINK_API const char *streamlink_text_data(const streamlink_text *text);

/**
 * Its length in bytes, without the NUL.
 *
 * # Safety
 * `text` is NULL or a text that was not freed.
 */
STREAMLINK_API size_t streamlink_text_length(const streamlink_text *text);

/**
 * Frees a text. NULL is allowed.
 *
 * # Safety
 * `text` is NULL or a text that was not freed.
 */
STREAMLINK_API void streamlink_text_free(streamlink_text *text);

/**
 * Hands the log of this process's streamlink to the host: lines up to a streamlink_log_level. It never holds a
 * passphrase or a stream key. NULL, or STREAMLINK_LOG_LEVEL_OFF: no more lines. When it returns, the function that was
 * set before is not called any more; from within a callback of any kind it does not wait for that.
 * STREAMLINK_STATUS_ALREADY_EXISTS: Rust code in this process has set a logger.
 *
 * # Safety
 * `sink` is NULL or a function that may be called with `user` from any thread; `error` is NULL or points to memory for
 * a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_log_set(streamlink_log sink,
                                     void *user,
                                     int32_t level,
                                     streamlink_error **error);

/**
 * Creates an engine. `options` may be NULL. On success `*engine` is the new engine, which is to be destroyed with
 * streamlink_engine_destroy().
 *
 * A process that forks must not use an engine in the child: its threads are not there. Create one after fork().
 *
 * # Safety
 * `options` is NULL or as its description says; `engine` points to memory for a pointer; `error` is NULL or does so
 * too.
 */
STREAMLINK_API
streamlink_status streamlink_engine_create(const streamlink_engine_options *options,
                                           streamlink_engine **engine,
                                           streamlink_error **error);

/**
 * Sets or replaces the certificates, its own first, and the private key that listeners show when they speak TLS, as PEM.
 * Handshakes that follow use them, also those of listeners that are running; connections stay. Nothing is kept that the
 * arguments point to.
 *
 * # Safety
 * `engine` is an engine that was not destroyed; `certificates` and `key` point to so many bytes as their lengths say;
 * `error` is NULL or points to memory for a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_engine_set_tls_identity(const streamlink_engine *engine,
                                                     const uint8_t *certificates,
                                                     size_t certificates_length,
                                                     const uint8_t *key,
                                                     size_t key_length,
                                                     streamlink_error **error);

/**
 * Statistics of all flows as OpenMetrics text, for a scraper. On success `*metrics` is to be freed with
 * streamlink_text_free().
 *
 * # Safety
 * `engine` is an engine that was not destroyed; `metrics` points to memory for a pointer; `error` is NULL or does so
 * too.
 */
STREAMLINK_API
streamlink_status streamlink_engine_metrics(const streamlink_engine *engine,
                                            streamlink_text **metrics,
                                            streamlink_error **error);

/**
 * Statistics of all flows as a JSON array, in the order of their names; see streamlink_stats_to_json(). On success
 * `*stats` is to be freed with streamlink_text_free().
 *
 * # Safety
 * `engine` is an engine that was not destroyed; `stats` points to memory for a pointer; `error` is NULL or does so too.
 */
STREAMLINK_API
streamlink_status streamlink_engine_stats_to_json(const streamlink_engine *engine,
                                                  streamlink_text **stats,
                                                  streamlink_error **error);

/**
 * Lists the flows that run in an engine, also those that other code has started, in the order of their names. On success
 * `*flows` is to be freed with streamlink_flow_list_free(). See streamlink_engine_flow().
 *
 * # Safety
 * `engine` is an engine that was not destroyed; `flows` points to memory for a pointer; `error` is NULL or does so too.
 */
STREAMLINK_API
streamlink_status streamlink_engine_flows(const streamlink_engine *engine,
                                          streamlink_flow_list **flows,
                                          streamlink_error **error);

/**
 * The number of flows of a list. NULL: 0.
 *
 * # Safety
 * `flows` is NULL or a list that was not freed.
 */
STREAMLINK_API size_t streamlink_flow_list_count(const streamlink_flow_list *flows);

/**
 * The name of a flow of a list, counted from 0. Lives as long as the list. NULL: there are not so many.
 *
 * # Safety
 * `flows` is NULL or a list that was not freed.
 */
STREAMLINK_API const char *streamlink_flow_list_name(const streamlink_flow_list *flows, size_t index);

/**
 * Frees a list. NULL is allowed.
 *
 * # Safety
 * `flows` is NULL or a list that was not freed.
 */
STREAMLINK_API void streamlink_flow_list_free(streamlink_flow_list *flows);

/**
 * Stops the flows of an engine, waits until their sockets are closed and their callbacks have ended, and destroys it.
 * From within a callback it does not wait. The handles of its flows stay valid, and are to be destroyed: their calls
 * return STREAMLINK_STATUS_STOPPED; the engine's threads end with the last of them. NULL is allowed.
 *
 * # Safety
 * `engine` is NULL or an engine that was not destroyed, and is not used by another call at the same time.
 */
STREAMLINK_API
void streamlink_engine_destroy(streamlink_engine *engine);

/**
 * The number of settings in the table. A name occurs several times where its type, range or default depends on the
 * endpoint.
 */
STREAMLINK_API
size_t streamlink_setting_count(void);

/**
 * Fills in a setting of the table. `index` counts from 0 to streamlink_setting_count() - 1; beyond, the status is
 * STREAMLINK_STATUS_INVALID_ARGUMENT.
 *
 * # Safety
 * `setting` points to a struct that begins with its size; `error` is NULL or points to a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_setting_get(size_t index,
                                         streamlink_setting *setting,
                                         streamlink_error **error);

/**
 * Creates a source from its name (1 to 128 bytes) and its URL:
 *
 *   rtp://:5004                            rtp://239.1.1.1:5004?iface=eth1&pt=33
 *   udp://:1234                            udp://@239.1.1.1:1234?iface=eth1   (MPEG-TS without RTP)
 *   rist://:5000?latency=1000              RIST, simple profile
 *   srt://:9000?mode=listener&latency=120  srt://example.com:9000?streamid=cam1
 *   rtmp://0.0.0.0:1935/live/KEY           publishers push to us
 *   rtmp://:1935/live?failover=true        the same with two input addresses, each with a generated key
 *   rtmp://example.com/live?key=KEY        we pull
 *   rtsp://0.0.0.0:554/cam/1               rtsp://user:password@example.com/path?transport=tcp
 *   app://datagrams  app://rtp  app://rtmp  app://rtsp    this process pushes; see streamlink_flow_app_source()
 *
 * `mode=listener` or `mode=caller` decides where the host does not (no host, or a wildcard: listener). What is wrong
 * with the URL is told when the flow is started, with everything else. On success `*source` is to be destroyed with
 * streamlink_source_destroy().
 *
 * # Safety
 * `name` and `url` are texts; `source` points to memory for a pointer; `error` is NULL or does so too.
 */
STREAMLINK_API
streamlink_status streamlink_source_create(const char *name,
                                           const char *url,
                                           streamlink_source **source,
                                           streamlink_error **error);

/**
 * Sets one setting by its name in the query of the URL, as in "latency", "200"; also "description" and "allow", as in
 * "203.3.3.3/28;198.51.100.7". A setting that is wrong is told when the flow is started.
 *
 * # Safety
 * `source` is a source that was not destroyed; `key` and `value` are texts; `error` is NULL or points to memory for a
 * pointer.
 */
STREAMLINK_API
streamlink_status streamlink_source_set(streamlink_source *source,
                                        const char *key,
                                        const char *value,
                                        streamlink_error **error);

/**
 * Destroys a source under construction; flows that it was added to keep what it was. NULL is allowed.
 *
 * # Safety
 * `source` is NULL or a source that was not destroyed, and is not used by another call at the same time.
 */
STREAMLINK_API void streamlink_source_destroy(streamlink_source *source);

/**
 * Creates an output from its name (1 to 128 bytes) and its URL:
 *
 *   rtp://192.0.2.1:5004                   rtp://239.1.1.1:5004?iface=eth1&ttl=8
 *   udp://192.0.2.1:1234                   udp://239.1.1.1:1234?ttl=8&pace=pcr   (MPEG-TS without RTP)
 *   rist://example.com:5000                RIST, simple profile
 *   srt://:9001?max_players=4              srt://example.com:7000?passphrase=SECRET
 *   rtmp://example.com/live?key=KEY        RTMP_PUSH, to one destination
 *   rtmp://example.com/live?key=KEY&relay=true    RTMP, the relay to one destination or two
 *   rtmp://0.0.0.0:1935/live/KEY           RTMP_PULL: players fetch from us
 *   rtsp://0.0.0.0:8554/cam                rtsp://user:password@example.com/path
 *   tap:                                   this process takes the packets; see streamlink_flow_tap()
 *
 * On success `*output` is to be destroyed with streamlink_output_destroy().
 *
 * # Safety
 * `name` and `url` are texts; `output` points to memory for a pointer; `error` is NULL or does so too.
 */
STREAMLINK_API
streamlink_status streamlink_output_create(const char *name,
                                           const char *url,
                                           streamlink_output **output,
                                           streamlink_error **error);

/**
 * Sets one setting by its name in the query of the URL, as in "ttl", "8"; also "description", "region", and "allow".
 * A setting that is wrong is told when the flow is started, or the output is added to it.
 *
 * # Safety
 * `output` is an output that was not destroyed; `key` and `value` are texts; `error` is NULL or points to memory for a
 * pointer.
 */
STREAMLINK_API
streamlink_status streamlink_output_set(streamlink_output *output,
                                        const char *key,
                                        const char *value,
                                        streamlink_error **error);

/**
 * Destroys an output under construction; flows that it was added to keep what it was. NULL is allowed.
 *
 * # Safety
 * `output` is NULL or an output that was not destroyed, and is not used by another call at the same time.
 */
STREAMLINK_API void streamlink_output_destroy(streamlink_output *output);

/**
 * Begins a flow with its name (1 to 128 bytes) and its maximum bandwidth in bits per second (above 0). On success
 * `*builder` is to be destroyed with streamlink_flow_builder_destroy(), also after the flow was started from it.
 *
 * # Safety
 * `name` is a text; `builder` points to memory for a pointer; `error` is NULL or does so too.
 */
STREAMLINK_API
streamlink_status streamlink_flow_builder_create(const char *name,
                                                 uint64_t max_bandwidth,
                                                 streamlink_flow_builder **builder,
                                                 streamlink_error **error);

/**
 * Adds a source, as it is now; the second and all further ones are backups.
 *
 * # Safety
 * Both are objects that were not destroyed; `error` is NULL or points to memory for a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_flow_builder_add_source(streamlink_flow_builder *builder,
                                                     const streamlink_source *source,
                                                     streamlink_error **error);

/**
 * Adds an output, as it is now.
 *
 * # Safety
 * Both are objects that were not destroyed; `error` is NULL or points to memory for a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_flow_builder_add_output(streamlink_flow_builder *builder,
                                                     const streamlink_output *output,
                                                     streamlink_error **error);

/**
 * Treatment of media above the maximum bandwidth: a streamlink_bandwidth_policy (STREAMLINK_BANDWIDTH_POLICY_DROP).
 *
 * # Safety
 * `builder` is a builder that was not destroyed; `error` is NULL or points to memory for a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_flow_builder_set_bandwidth_policy(streamlink_flow_builder *builder,
                                                               int32_t policy,
                                                               streamlink_error **error);

/**
 * Maximum time for which packets of RTP and RTSP sources wait for more, so that they leave together, in milliseconds (5;
 * 0 to 20). Flows with fewer than 8 outputs let them wait for no more than 1 ms.
 *
 * # Safety
 * `builder` is a builder that was not destroyed; `error` is NULL or points to memory for a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_flow_builder_set_coalesce(streamlink_flow_builder *builder,
                                                       uint32_t milliseconds,
                                                       streamlink_error **error);

/**
 * Sets the time for which RTMP and RTSP players that join, and a backup that takes over, wait for a picture that
 * decoding can start with, in milliseconds (3000; 0 to 60000). Past it they start anyway.
 *
 * # Safety
 * `builder` is a builder that was not destroyed; `error` is NULL or points to memory for a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_flow_builder_set_entry_wait(streamlink_flow_builder *builder,
                                                         uint32_t milliseconds,
                                                         streamlink_error **error);

/**
 * Way in which the sources back each other: a streamlink_failover_policy (STREAMLINK_FAILOVER_POLICY_STAY);
 * `time_ms`: of PREFER the hold time, of MERGE the recovery window (100 to 500), of STAY 0; `loss_threshold_ms`: how
 * long the active source may bring nothing (50 to 60000), 0: 500; `cold`: not 0: backups, which must be
 * callers, are connected only when they are needed.
 *
 * # Safety
 * `builder` is a builder that was not destroyed; `error` is NULL or points to memory for a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_flow_builder_set_failover(streamlink_flow_builder *builder,
                                                       int32_t policy,
                                                       uint32_t time_ms,
                                                       uint32_t loss_threshold_ms,
                                                       int32_t cold,
                                                       streamlink_error **error);

/**
 * Writes the flow as JSON, in the form that streamlink_flow_start_json() reads. It holds the secrets. On success
 * `*json` is to be freed with streamlink_text_free(). A flow that is not valid is STREAMLINK_STATUS_INVALID_CONFIG: so
 * this checks it, too.
 *
 * # Safety
 * `builder` is a builder that was not destroyed; `json` points to memory for a pointer; `error` is NULL or does so too.
 */
STREAMLINK_API
streamlink_status streamlink_flow_builder_to_json(const streamlink_flow_builder *builder,
                                                  streamlink_text **json,
                                                  streamlink_error **error);

/**
 * Destroys a builder; flows that were started from it go on. NULL is allowed.
 *
 * # Safety
 * `builder` is NULL or a builder that was not destroyed, and is not used by another call at the same time.
 */
STREAMLINK_API void streamlink_flow_builder_destroy(streamlink_flow_builder *builder);

/**
 * The names of the outputs that a source can feed, in the order that a drop-down list would show them: "RTMP",
 * "RTMP_PUSH", "RTMP_PULL", "SRT", "RTP", "UDP", "RIST", "RTSP", "tap". `index` counts from 0; NULL: there are no more, or `input`
 * is no streamlink_input. The text lives as long as the program.
 */
STREAMLINK_API
const char *streamlink_allowed_output(int32_t input,
                                      size_t index);

/**
 * Starts the flow of a builder: opens all its sockets, then runs it; nothing is started if anything is wrong. On success
 * `*flow` is to be destroyed with streamlink_flow_destroy().
 *
 * # Safety
 * `engine` and `builder` are objects that were not destroyed; `flow` points to memory for a pointer; `error` is NULL or
 * does so too.
 */
STREAMLINK_API
streamlink_status streamlink_flow_start(const streamlink_engine *engine,
                                        const streamlink_flow_builder *builder,
                                        streamlink_flow **flow,
                                        streamlink_error **error);

/**
 * Starts a flow from JSON, as in
 *
 *   { "name": "match-day", "max_bandwidth": "20M",
 *     "sources": [ { "name": "venue", "url": "srt://:9000", "latency": 200 } ],
 *     "outputs": [ { "name": "partner", "url": "srt://:9001", "max_players": 4, "allow": "203.3.3.3/28" } ] }
 *
 * Settings stand in the query of the URL, or beside it under the same names. Otherwise as streamlink_flow_start().
 *
 * # Safety
 * `engine` is an object that was not destroyed; `json` is a text; `flow` points to memory for a pointer; `error` is NULL
 * or does so too.
 */
STREAMLINK_API
streamlink_status streamlink_flow_start_json(const streamlink_engine *engine,
                                             const char *json,
                                             streamlink_flow **flow,
                                             streamlink_error **error);

/**
 * Another handle of a flow that runs, by its name, whoever has started it. It has events of its own, from now on. The
 * flow does not stop when this handle is destroyed, and the handle outlives the flow. On success `*flow` is to be
 * destroyed with streamlink_flow_destroy().
 *
 * # Safety
 * `engine` is an engine that was not destroyed; `name` is a text; `flow` points to memory for a pointer; `error` is NULL
 * or does so too.
 */
STREAMLINK_API
streamlink_status streamlink_engine_flow(const streamlink_engine *engine,
                                         const char *name,
                                         streamlink_flow **flow,
                                         streamlink_error **error);

/**
 * The name of a flow; lives as long as the handle. NULL: "".
 *
 * # Safety
 * `flow` is NULL or a flow that was not destroyed.
 */
STREAMLINK_API const char *streamlink_flow_name(const streamlink_flow *flow);

/**
 * Stops a flow: what the sources have brought is handed on, then all sockets close. Its last event is
 * STREAMLINK_EVENT_KIND_FLOW_STOPPED. Stopping it again does nothing. Not to be called from within a callback, which it
 * would wait for: STREAMLINK_STATUS_INVALID_ARGUMENT; streamlink_flow_destroy() is allowed there.
 *
 * # Safety
 * `flow` is a flow that was not destroyed; `error` is NULL or points to memory for a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_flow_stop(const streamlink_flow *flow,
                                       streamlink_error **error);

/**
 * Stops a flow, waits until its callbacks have returned, and destroys it. A handle of streamlink_engine_flow() is
 * destroyed alone: the flow goes on. From within a callback it does not wait: the
 * callback of its events may then still get some, up to STREAMLINK_EVENT_KIND_FLOW_STOPPED. NULL is allowed.
 *
 * # Safety
 * `flow` is NULL or a flow that was not destroyed, and is not used by another call at the same time.
 */
STREAMLINK_API
void streamlink_flow_destroy(streamlink_flow *flow);

/**
 * The URL that encoders send to, of a source that listens. On success `*url` is to be freed with streamlink_text_free().
 * STREAMLINK_STATUS_NOT_FOUND: there is no such source, or it does not listen.
 *
 * # Safety
 * `flow` is a flow that was not destroyed; `source` is a text; `url` points to memory for a pointer; `error` is NULL or
 * does so too.
 */
STREAMLINK_API
streamlink_status streamlink_flow_input_address(const streamlink_flow *flow,
                                                const char *source,
                                                streamlink_text **url,
                                                streamlink_error **error);

/**
 * The SDP (RFC 8866) that players of RTSP are offered: what the tracks are that a tap of the flow gets. On success `*sdp` is
 * to be freed with streamlink_text_free(). STREAMLINK_STATUS_NOT_FOUND: no source has described its media yet, or media of
 * this family has no such description.
 *
 * # Safety
 * `flow` is a flow that was not destroyed; `sdp` points to memory for a pointer; `error` is NULL or does so too.
 */
STREAMLINK_API
streamlink_status streamlink_flow_sdp(const streamlink_flow *flow,
                                      streamlink_text **sdp,
                                      streamlink_error **error);

/**
 * The server and the stream key of an RTMP source that listens, apart, as OBS and many encoders want them. On success
 * `*server` and `*key` are to be freed with streamlink_text_free(). STREAMLINK_STATUS_NOT_FOUND: there is no such source,
 * or it does not listen with RTMP.
 *
 * # Safety
 * `flow` is a flow that was not destroyed; `source` is a text; `server` and `key` point to memory for a pointer; `error`
 * is NULL or does so too.
 */
STREAMLINK_API
streamlink_status streamlink_flow_input_server_and_key(const streamlink_flow *flow,
                                                       const char *source,
                                                       streamlink_text **server,
                                                       streamlink_text **key,
                                                       streamlink_error **error);

/**
 * The URL that players fetch from, of an output that listens. On success `*url` is to be freed with
 * streamlink_text_free(). STREAMLINK_STATUS_NOT_FOUND: there is no such output, or it does not listen.
 *
 * # Safety
 * `flow` is a flow that was not destroyed; `output` is a text; `url` points to memory for a pointer; `error` is NULL or
 * does so too.
 */
STREAMLINK_API
streamlink_status streamlink_flow_playback_url(const streamlink_flow *flow,
                                               const char *output,
                                               streamlink_text **url,
                                               streamlink_error **error);

/**
 * The counters of this moment; the data path does not stop for it. On success `*stats` is to be freed with
 * streamlink_stats_free(). Works after the flow was stopped, too.
 *
 * # Safety
 * `flow` is a flow that was not destroyed; `stats` points to memory for a pointer; `error` is NULL or does so too.
 */
STREAMLINK_API
streamlink_status streamlink_flow_stats(const streamlink_flow *flow,
                                        streamlink_stats **stats,
                                        streamlink_error **error);

/**
 * Takes the next event since the flow was started; waits for it up to `timeout_ms` milliseconds (0: does not wait;
 * negative: as long as it takes). On success `*event` is to be freed with streamlink_event_free(). Up to 1024 events
 * wait; then the oldest go, and an event tells how many. STREAMLINK_STATUS_TIMED_OUT: none came;
 * STREAMLINK_STATUS_STOPPED: the flow has stopped, and all events were taken. A flow with a callback has none here.
 *
 * # Safety
 * `flow` is a flow that was not destroyed; `event` points to memory for a pointer; `error` is NULL or does so too.
 */
STREAMLINK_API
streamlink_status streamlink_flow_next_event(const streamlink_flow *flow,
                                             int64_t timeout_ms,
                                             streamlink_event **event,
                                             streamlink_error **error);

/**
 * A file descriptor that is readable while streamlink_flow_next_event() has something to return at once, for poll() and
 * its kin. It belongs to the flow: not to be read or closed. -1: the system gives none.
 *
 * # Safety
 * `flow` is NULL or a flow that was not destroyed.
 */
STREAMLINK_API
int32_t streamlink_flow_event_fd(const streamlink_flow *flow);

/**
 * From now on events go to this function, first those that wait; NULL: to streamlink_flow_next_event() again. When it
 * returns, the function that was set before is not called any more, unless this is called from within it.
 *
 * # Safety
 * `flow` is a flow that was not destroyed; `callback` is NULL or may be called with `user` from any thread until the
 * flow is destroyed or another one is set; `error` is NULL or points to memory for a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_flow_set_event_callback(const streamlink_flow *flow,
                                                     streamlink_event_callback callback,
                                                     void *user,
                                                     streamlink_error **error);

/**
 * Reads one flow, or a list of flows, from JSON in the form of streamlink_flow_start_json(), and starts nothing. All
 * errors of all flows are told, also where two flows have one name or listen on one address with one key. On success
 * `*configs` is to be freed with streamlink_flow_configs_free().
 *
 * # Safety
 * `json` is a text; `configs` points to memory for a pointer; `error` is NULL or does so too.
 */
STREAMLINK_API
streamlink_status streamlink_flow_configs_from_json(const char *json,
                                                    streamlink_flow_configs **configs,
                                                    streamlink_error **error);

/**
 * The number of flows. NULL: 0.
 *
 * # Safety
 * `configs` is NULL or an object that was not freed.
 */
STREAMLINK_API size_t streamlink_flow_configs_count(const streamlink_flow_configs *configs);

/**
 * The name of a flow, counted from 0. Lives as long as the object. NULL: there are not so many.
 *
 * # Safety
 * `configs` is NULL or an object that was not freed.
 */
STREAMLINK_API const char *streamlink_flow_configs_name(const streamlink_flow_configs *configs, size_t index);

/**
 * Starts a flow, counted from 0, as streamlink_flow_start(). STREAMLINK_STATUS_NOT_FOUND: there are not so many.
 *
 * # Safety
 * `engine` and `configs` are objects that were not destroyed; `flow` points to memory for a pointer; `error` is NULL or
 * does so too.
 */
STREAMLINK_API
streamlink_status streamlink_flow_configs_start(const streamlink_flow_configs *configs,
                                                size_t index,
                                                const streamlink_engine *engine,
                                                streamlink_flow **flow,
                                                streamlink_error **error);

/**
 * Frees the flows that were read; those that were started from them go on. NULL is allowed.
 *
 * # Safety
 * `configs` is NULL or an object that was not freed.
 */
STREAMLINK_API void streamlink_flow_configs_free(streamlink_flow_configs *configs);

/**
 * The configuration of a running flow as it is now, with all changes since it was started, as JSON. An ellipsis stands
 * for each secret: passphrases, stream keys, stream ids, users and passwords. On success `*json` is to be freed with
 * streamlink_text_free().
 *
 * # Safety
 * `flow` is a flow that was not destroyed; `json` points to memory for a pointer; `error` is NULL or does so too.
 */
STREAMLINK_API
streamlink_status streamlink_flow_configuration(const streamlink_flow *flow,
                                                streamlink_text **json,
                                                streamlink_error **error);

/**
 * The configuration of a running flow as streamlink_flow_configuration(), with its secrets, generated stream keys among
 * them: streamlink_flow_start_json() starts the same flow again. Not for a log.
 *
 * # Safety
 * As streamlink_flow_configuration().
 */
STREAMLINK_API
streamlink_status streamlink_flow_configuration_with_secrets(const streamlink_flow *flow,
                                                             streamlink_text **json,
                                                             streamlink_error **error);

/**
 * Adds an output, as it is now. It gets what comes from now on; no other output notices.
 *
 * # Safety
 * Both are objects that were not destroyed; `error` is NULL or points to memory for a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_flow_add_output(const streamlink_flow *flow,
                                             const streamlink_output *output,
                                             streamlink_error **error);

/**
 * Puts another output in the place of one. It is checked and opened first: when that fails, the old one stays. From
 * within a callback it does not wait until the sockets of the old one are closed.
 *
 * # Safety
 * Both are objects that were not destroyed; `name` is a text; `error` is NULL or points to memory for a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_flow_replace_output(const streamlink_flow *flow,
                                                 const char *name,
                                                 const streamlink_output *output,
                                                 streamlink_error **error);

/**
 * Removes an output, and waits until its sockets are closed; from within a callback, which may run on a thread of that
 * output, it does not wait. No other output notices.
 *
 * # Safety
 * `flow` is a flow that was not destroyed; `name` is a text; `error` is NULL or points to memory for a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_flow_remove_output(const streamlink_flow *flow,
                                                const char *name,
                                                streamlink_error **error);

/**
 * Changes one setting of an output in place: "name", "description", "allow" (players that it does not admit are cut
 * off), "max_players" (1 to 1000000), or the members of a group of connections: "add_member" and "remove_member" (an
 * address, as in "host:9000" or "host:9000?weight=50"), or "members" (all of them, separated by commas). The other
 * members go on undisturbed; one at least stays. `*applied` is STREAMLINK_APPLIED_IN_PLACE then; `applied` may be NULL.
 *
 * # Safety
 * `flow` is a flow that was not destroyed; the others are texts; `applied` is NULL or points to memory for a number; `error` is NULL or points to memory for a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_flow_edit_output(const streamlink_flow *flow,
                                              const char *name,
                                              const char *key,
                                              const char *value,
                                              int32_t *applied,
                                              streamlink_error **error);

/**
 * Cuts off a player of an output that listens, by its address as streamlink_player_stats has it. It may come again: an
 * allowlist keeps it out. STREAMLINK_STATUS_NOT_FOUND: there is no such output, or no such player of it.
 *
 * # Safety
 * `flow` is a flow that was not destroyed; the others are texts; `error` is NULL or points to memory for a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_flow_kick_player(const streamlink_flow *flow,
                                              const char *output,
                                              const char *peer,
                                              streamlink_error **error);

/**
 * Adds a source, as it is now, behind those that are there: a backup like those that the flow was started with. Its
 * media must be of their family. Players stay connected when it takes over.
 *
 * # Safety
 * All are objects that were not destroyed; `error` is NULL or points to memory for a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_flow_add_source(const streamlink_flow *flow,
                                             const streamlink_source *source,
                                             streamlink_error **error);

/**
 * Puts another source of the same family in the place of one; players stay connected, and its media continues that of
 * the old one. It is opened before the old one ends, except where both need the same socket. When it cannot be opened,
 * the old one stays. `*applied` is STREAMLINK_APPLIED_RECONNECT then; `applied` may be NULL.
 *
 * # Safety
 * All are objects that were not destroyed; `name` is a text; `applied` is NULL or points to memory for a number; `error`
 * is NULL or points to memory for a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_flow_replace_source(const streamlink_flow *flow,
                                                 const char *name,
                                                 const streamlink_source *source,
                                                 int32_t *applied,
                                                 streamlink_error **error);

/**
 * Removes a source, and waits until its sockets are closed; from within a callback it does not wait. If it feeds the flow,
 * another one takes over, and players stay connected. The last source cannot be removed: STREAMLINK_STATUS_INVALID_CONFIG.
 *
 * # Safety
 * `flow` is a flow that was not destroyed; `name` is a text; `error` is NULL or points to memory for a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_flow_remove_source(const streamlink_flow *flow,
                                                const char *name,
                                                streamlink_error **error);

/**
 * Switches to a source by hand, at its next key frame or the like; until then the flow stays as it is. It then stays with
 * the source until that is lost; from then on the failover policy holds again. STREAMLINK_EVENT_KIND_SWITCHED tells when
 * it has. STREAMLINK_STATUS_INVALID_CONFIG: the source is disabled, or the flow merges its sources.
 *
 * # Safety
 * `flow` is a flow that was not destroyed; `source` is a text; `error` is NULL or points to memory for a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_flow_switch_to(const streamlink_flow *flow,
                                            const char *source,
                                            streamlink_error **error);

/**
 * Enables or disables a source. A disabled one holds its configuration, name and counters, and no sockets. If it
 * feeds the flow, another one takes over.
 * `enabled`: not 0: enabled. `*applied` is STREAMLINK_APPLIED_RECONNECT, or STREAMLINK_APPLIED_IN_PLACE if it was so
 * before; `applied` may be NULL. From within a callback it does not wait until sockets are closed.
 *
 * # Safety
 * `flow` is a flow that was not destroyed; `name` is a text; `applied` is NULL or points to memory for a number; `error` is
 * NULL or points to memory for a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_flow_set_source_enabled(const streamlink_flow *flow,
                                                     const char *name,
                                                     int32_t enabled,
                                                     int32_t *applied,
                                                     streamlink_error **error);

/**
 * Enables or disables an output. A disabled one holds its configuration, name and counters, and no sockets. Its
 * peers are disconnected.
 * `enabled`: not 0: enabled. `*applied` is STREAMLINK_APPLIED_RECONNECT, or STREAMLINK_APPLIED_IN_PLACE if it was so
 * before; `applied` may be NULL. From within a callback it does not wait until sockets are closed.
 *
 * # Safety
 * `flow` is a flow that was not destroyed; `name` is a text; `applied` is NULL or points to memory for a number; `error` is
 * NULL or points to memory for a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_flow_set_output_enabled(const streamlink_flow *flow,
                                                     const char *name,
                                                     int32_t enabled,
                                                     int32_t *applied,
                                                     streamlink_error **error);

/**
 * Changes how the sources back each other, from the next packet on; the numbers are those of
 * streamlink_flow_builder_set_failover(). A merge cannot begin or end while the flow runs, and backups cannot become cold
 * or hot: STREAMLINK_STATUS_INVALID_CONFIG. `*applied` is STREAMLINK_APPLIED_IN_PLACE; `applied` may be NULL.
 *
 * # Safety
 * `flow` is a flow that was not destroyed; `applied` is NULL or points to memory for a number; `error` is NULL or points to
 * memory for a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_flow_set_failover(const streamlink_flow *flow,
                                               int32_t policy,
                                               uint32_t time_ms,
                                               uint32_t loss_threshold_ms,
                                               int32_t cold,
                                               int32_t *applied,
                                               streamlink_error **error);

/**
 * Changes one setting of a source in place: "name", "description", "allow" (a sender that it does not admit is cut off),
 * or "add_member", "remove_member" or "members", as streamlink_flow_edit_output() does. `*applied` is
 * STREAMLINK_APPLIED_IN_PLACE then; `applied` may be NULL.
 *
 * # Safety
 * As streamlink_flow_edit_output().
 */
STREAMLINK_API
streamlink_status streamlink_flow_edit_source(const streamlink_flow *flow,
                                              const char *name,
                                              const char *key,
                                              const char *value,
                                              int32_t *applied,
                                              streamlink_error **error);

/**
 * Changes the maximum bandwidth, in bits per second, from the next packet on.
 *
 * # Safety
 * `flow` is a flow that was not destroyed; `error` is NULL or points to memory for a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_flow_set_max_bandwidth(const streamlink_flow *flow,
                                                    uint64_t bits_per_second,
                                                    streamlink_error **error);

/**
 * Changes what happens above the maximum bandwidth: a streamlink_bandwidth_policy.
 *
 * # Safety
 * `flow` is a flow that was not destroyed; `error` is NULL or points to memory for a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_flow_set_bandwidth_policy(const streamlink_flow *flow,
                                                       int32_t policy,
                                                       streamlink_error **error);

/**
 * Writes an event as a JSON object, as in
 * {"flow":"match-day","at_ms":1767225600000,"event":"source_lost","source":"venue","peer":"192.0.2.1:5000",
 * "reason":{"kind":"idle"}}. On success `*json` is to be freed with streamlink_text_free().
 *
 * # Safety
 * `event` is an event that was not freed; `json` points to memory for a pointer; `error` is NULL or does so too.
 */
STREAMLINK_API
streamlink_status streamlink_event_to_json(const streamlink_event *event,
                                           streamlink_text **json,
                                           streamlink_error **error);

/**
 * Fills in what an event says; `info->size` must be set. See STREAMLINK_INIT(). NULL, or a size that is none: nothing is
 * done.
 *
 * # Safety
 * `event` is NULL or an event that was not freed; `info` is NULL or points to a struct of the size that it says.
 */
STREAMLINK_API
void streamlink_event_get(const streamlink_event *event,
                          streamlink_event_info *info);

/**
 * Frees an event that streamlink_flow_next_event() or streamlink_event_reader_next() has given. NULL is allowed.
 *
 * # Safety
 * `event` is NULL or such an event that was not freed.
 */
STREAMLINK_API
void streamlink_event_free(streamlink_event *event);

/**
 * Creates a reader of the events of all flows of an engine from now on, those that are started later among them; each
 * with its flow and its time. There may be several. On success `*reader` is to be destroyed with
 * streamlink_event_reader_destroy(), before or after the engine.
 *
 * # Safety
 * `engine` is an engine that was not destroyed; `reader` points to memory for a pointer; `error` is NULL or does so
 * too.
 */
STREAMLINK_API
streamlink_status streamlink_event_reader_create(const streamlink_engine *engine,
                                                 streamlink_event_reader **reader,
                                                 streamlink_error **error);

/**
 * Takes the next event, as streamlink_flow_next_event(). STREAMLINK_STATUS_STOPPED: the engine was destroyed, and all
 * events were taken.
 *
 * # Safety
 * `reader` is a reader that was not destroyed; `event` points to memory for a pointer; `error` is NULL or does so too.
 */
STREAMLINK_API
streamlink_status streamlink_event_reader_next(const streamlink_event_reader *reader,
                                               int64_t timeout_ms,
                                               streamlink_event **event,
                                               streamlink_error **error);

/**
 * A file descriptor that is readable while streamlink_event_reader_next() has something to return at once. It belongs to
 * the reader: not to be read or closed. -1: the system gives none.
 *
 * # Safety
 * `reader` is NULL or a reader that was not destroyed.
 */
STREAMLINK_API
int32_t streamlink_event_reader_fd(const streamlink_event_reader *reader);

/**
 * From now on events go to this function, as streamlink_flow_set_event_callback().
 *
 * # Safety
 * `reader` is a reader that was not destroyed; `callback` is NULL or may be called with `user` from any thread until the
 * reader is destroyed or another one is set; `error` is NULL or points to memory for a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_event_reader_set_callback(const streamlink_event_reader *reader,
                                                       streamlink_event_callback callback,
                                                       void *user,
                                                       streamlink_error **error);

/**
 * Destroys a reader, and waits until its callback has returned; from within a callback it does not wait. The flows go on.
 * NULL is allowed.
 *
 * # Safety
 * `reader` is NULL or a reader that was not destroyed, and is not used by another call at the same time.
 */
STREAMLINK_API
void streamlink_event_reader_destroy(streamlink_event_reader *reader);

/**
 * Returns the number of endpoints: sources first, then outputs, in their order.
 *
 * # Safety
 * `stats` is NULL or a snapshot that was not freed.
 */
STREAMLINK_API size_t streamlink_stats_count(const streamlink_stats *stats);

/**
 * The maximum bandwidth of the flow, in bits per second.
 *
 * # Safety
 * `stats` is NULL or a snapshot that was not freed.
 */
STREAMLINK_API uint64_t streamlink_stats_max_bandwidth(const streamlink_stats *stats);

/**
 * Of a merge (SMPTE ST 2022-7): packets that no source has brought in time.
 *
 * # Safety
 * `stats` is NULL or a snapshot that was not freed.
 */
STREAMLINK_API uint64_t streamlink_stats_merge_lost(const streamlink_stats *stats);

/**
 * Fills in an endpoint, counted from 0; `endpoint->size` must be set. See STREAMLINK_INIT().
 *
 * # Safety
 * `stats` is a snapshot that was not freed; `endpoint` points to a struct of the size that it says; `error` is NULL or
 * points to memory for a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_stats_endpoint(const streamlink_stats *stats,
                                            size_t index,
                                            streamlink_endpoint_stats *endpoint,
                                            streamlink_error **error);

/**
 * Fills in a player of an endpoint, both counted from 0; `player->size` must be set.
 *
 * # Safety
 * As streamlink_stats_endpoint().
 */
STREAMLINK_API
streamlink_status streamlink_stats_player(const streamlink_stats *stats,
                                          size_t endpoint,
                                          size_t index,
                                          streamlink_player_stats *player,
                                          streamlink_error **error);

/**
 * Fills in a member of an endpoint that is a group of connections, both counted from 0; `member->size` must be set.
 *
 * # Safety
 * As streamlink_stats_endpoint().
 */
STREAMLINK_API
streamlink_status streamlink_stats_member(const streamlink_stats *stats,
                                          size_t endpoint,
                                          size_t index,
                                          streamlink_member_stats *member,
                                          streamlink_error **error);

/**
 * Fills in the number of refusals for one reason, with endpoint and reason counted from 0; `refusal->size` must be set.
 *
 * # Safety
 * As streamlink_stats_endpoint().
 */
STREAMLINK_API
streamlink_status streamlink_stats_refusal(const streamlink_stats *stats,
                                           size_t endpoint,
                                           size_t index,
                                           streamlink_refusal_stats *refusal,
                                           streamlink_error **error);

/**
 * Fills in a PID of an endpoint, both counted from 0; `pid->size` must be set.
 *
 * # Safety
 * As streamlink_stats_endpoint().
 */
STREAMLINK_API
streamlink_status streamlink_stats_pid(const streamlink_stats *stats,
                                       size_t endpoint,
                                       size_t index,
                                       streamlink_pid_stats *pid,
                                       streamlink_error **error);

/**
 * Fills in a track of an endpoint, both counted from 0; `track->size` must be set.
 *
 * # Safety
 * As streamlink_stats_endpoint().
 */
STREAMLINK_API
streamlink_status streamlink_stats_track(const streamlink_stats *stats,
                                         size_t endpoint,
                                         size_t index,
                                         streamlink_track *track,
                                         streamlink_error **error);

/**
 * The name of the flow; lives as long as the snapshot. NULL: "".
 *
 * # Safety
 * `stats` is NULL or a snapshot that was not freed.
 */
STREAMLINK_API const char *streamlink_stats_flow(const streamlink_stats *stats);

/**
 * Writes a snapshot as JSON: an object with the members name, max_bandwidth, merge_lost, sources, outputs and regions;
 * sources and outputs have the fields of streamlink_endpoint_stats under the names of the Rust API, durations as numbers of
 * milliseconds. Stream keys are hidden. On success `*json` is to be freed with streamlink_text_free().
 *
 * # Safety
 * `stats` is a snapshot that was not freed; `json` points to memory for a pointer; `error` is NULL or does so too.
 */
STREAMLINK_API
streamlink_status streamlink_stats_to_json(const streamlink_stats *stats,
                                           streamlink_text **json,
                                           streamlink_error **error);

/**
 * Frees a snapshot. NULL is allowed.
 *
 * # Safety
 * `stats` is NULL or a snapshot that was not freed.
 */
STREAMLINK_API void streamlink_stats_free(streamlink_stats *stats);

/**
 * Returns the number of regions on other machines in which a flow has outputs.
 *
 * # Safety
 * `stats` is NULL or a snapshot that was not freed.
 */
STREAMLINK_API size_t streamlink_stats_region_count(const streamlink_stats *stats);

/**
 * Fills in a region, counted from 0; `region->size` must be set. See STREAMLINK_INIT().
 *
 * # Safety
 * As streamlink_stats_endpoint().
 */
STREAMLINK_API
streamlink_status streamlink_stats_region(const streamlink_stats *stats,
                                          size_t index,
                                          streamlink_region_stats *region,
                                          streamlink_error **error);

/**
 * Fills in a leg of a region, both counted from 0; `leg->size` must be set.
 *
 * # Safety
 * As streamlink_stats_endpoint().
 */
STREAMLINK_API
streamlink_status streamlink_stats_region_leg(const streamlink_stats *stats,
                                              size_t region,
                                              size_t index,
                                              streamlink_member_stats *leg,
                                              streamlink_error **error);

/**
 * Adds a region on other machines to an engine. Outputs with this region then run there, and their statistics and events
 * are those of the flow. `url`: the relays that lead there and a path, as in "moq://relay-a,relay-b/studio". `options`: a
 * JSON object with the settings of the link, of which `key`, the public key of the region, is required; see
 * RegionLinkOptions::from_json of the crate streamlink-moq.
 *
 * A library that was built without the feature `moq` returns STREAMLINK_STATUS_UNSUPPORTED.
 *
 * # Safety
 * `engine` is an engine that was not destroyed; `name` and `url` are texts that end with NUL, and `options` is one or NULL;
 * `error` is NULL or points to memory for a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_engine_add_remote_region(const streamlink_engine *engine,
                                                      const char *name,
                                                      const char *url,
                                                      const char *options,
                                                      streamlink_error **error);

/**
 * Makes a packet of a streamlink_packet_kind from a copy of some bytes. `time`: of an RTMP message its timestamp in
 * milliseconds, of an RTSP packet the number of its track, as in the SDP, from 0; otherwise 0. On success `*packet` is
 * to be freed with streamlink_packet_free().
 *
 * # Safety
 * `data` points to `length` bytes; `packet` points to memory for a pointer; `error` is NULL or does so too.
 */
STREAMLINK_API
streamlink_status streamlink_packet_copy(int32_t kind,
                                         uint32_t time,
                                         const uint8_t *data,
                                         size_t length,
                                         streamlink_packet **packet,
                                         streamlink_error **error);

/**
 * Makes a packet as streamlink_packet_copy(), without copying: the bytes must not change until `release` is called with
 * `user`, which is when nobody needs them any more. On failure it is not called.
 *
 * `release` may be called on any thread, until the flows that got the packet are destroyed. It may call the library, with
 * handles that were not destroyed.
 *
 * # Safety
 * `data` points to `length` bytes until then; `release` is a function; `packet` points to memory for a pointer; `error`
 * is NULL or does so too.
 */
STREAMLINK_API
streamlink_status streamlink_packet_borrow(int32_t kind,
                                           uint32_t time,
                                           const uint8_t *data,
                                           size_t length,
                                           streamlink_release release,
                                           void *user,
                                           streamlink_packet **packet,
                                           streamlink_error **error);

/**
 * Another handle to the same packet; NULL for NULL. To be freed with streamlink_packet_free().
 *
 * # Safety
 * `packet` is NULL or a packet that was not freed.
 */
STREAMLINK_API streamlink_packet *streamlink_packet_clone(const streamlink_packet *packet);

/**
 * Frees a handle of a packet. NULL is allowed.
 *
 * # Safety
 * `packet` is NULL or a packet that was not freed.
 */
STREAMLINK_API void streamlink_packet_free(streamlink_packet *packet);

/**
 * The bytes; they live as long as the handle. NULL: NULL.
 *
 * # Safety
 * `packet` is NULL or a packet that was not freed.
 */
STREAMLINK_API const uint8_t *streamlink_packet_data(const streamlink_packet *packet);

/**
 * Number of bytes.
 *
 * # Safety
 * `packet` is NULL or a packet that was not freed.
 */
STREAMLINK_API size_t streamlink_packet_length(const streamlink_packet *packet);

/**
 * The streamlink_packet_kind; 0 for NULL.
 *
 * # Safety
 * `packet` is NULL or a packet that was not freed.
 */
STREAMLINK_API int32_t streamlink_packet_kind_of(const streamlink_packet *packet);

/**
 * The timestamp in milliseconds of an RTMP message, the track of an RTSP packet; otherwise 0.
 *
 * # Safety
 * `packet` is NULL or a packet that was not freed.
 */
STREAMLINK_API uint32_t streamlink_packet_time(const streamlink_packet *packet);

/**
 * For how long the packet has been in this process, in microseconds: for a socket, since the kernel received it.
 *
 * # Safety
 * `packet` is NULL or a packet that was not freed.
 */
STREAMLINK_API
uint64_t streamlink_packet_age_us(const streamlink_packet *packet);

/**
 * The place where packets are pushed into the source `app://…` of this name. On success `*source` is to be destroyed
 * with streamlink_app_source_destroy(), before or after the flow.
 *
 * # Safety
 * `flow` is a flow that was not destroyed; `name` is a text; `source` points to memory for a pointer; `error` is NULL or
 * does so too.
 */
STREAMLINK_API
streamlink_status streamlink_flow_app_source(const streamlink_flow *flow,
                                             const char *name,
                                             streamlink_app_source **source,
                                             streamlink_error **error);

/**
 * Hands packets to the flow, and to all its outputs; the handles stay the caller's. Never blocks. Many at once cost less
 * than one by one. Returns the first refusal, after all were offered: STREAMLINK_STATUS_FULL, the flow is at its maximum
 * bandwidth; STREAMLINK_STATUS_STOPPED; STREAMLINK_STATUS_BAD_PACKET, malformed or of another family. There is no
 * streamlink_error for it: it is the hot path.
 *
 * # Safety
 * `source` is an object that was not destroyed; `packets` points to `count` packets that were not freed.
 */
STREAMLINK_API
streamlink_status streamlink_app_source_push(const streamlink_app_source *source,
                                             const streamlink_packet *const *packets,
                                             size_t count);

/**
 * Hands packets to the flow as streamlink_app_source_push(), and frees their handles, whatever becomes of them; which
 * costs less.
 *
 * # Safety
 * As streamlink_app_source_push(). The packets are freed.
 */
STREAMLINK_API
streamlink_status streamlink_app_source_give(const streamlink_app_source *source,
                                             streamlink_packet *const *packets,
                                             size_t count);

/**
 * Says what the packets of a source `app://rtsp` are: its SDP (RFC 8866), whose sections of media number the tracks.
 * Players can come from then on.
 *
 * # Safety
 * `source` is an object that was not destroyed; `sdp` is a text; `error` is NULL or points to memory for a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_app_source_set_sdp(const streamlink_app_source *source,
                                                const char *sdp,
                                                streamlink_error **error);

/**
 * Destroys the place; the source itself stays, and ends with its flow. NULL is allowed.
 *
 * # Safety
 * `source` is NULL or an object that was not destroyed, and is not used by another call at the same time.
 */
STREAMLINK_API void streamlink_app_source_destroy(streamlink_app_source *source);

/**
 * Takes the end of an output `tap:`, which can be done once. On success `*tap` is to be destroyed with
 * streamlink_tap_destroy(), before or after the flow.
 *
 * # Safety
 * `flow` is a flow that was not destroyed; `name` is a text; `tap` points to memory for a pointer; `error` is NULL or
 * does so too.
 */
STREAMLINK_API
streamlink_status streamlink_flow_tap(const streamlink_flow *flow,
                                      const char *name,
                                      streamlink_tap **tap,
                                      streamlink_error **error);

/**
 * Takes packets, as many as there are, up to `capacity`; waits for the first one up to `timeout_ms` milliseconds (0: does
 * not wait; negative: as long as it takes). On success `*count` packets are in `packets`, at least one, each to be freed
 * with streamlink_packet_free(). STREAMLINK_STATUS_TIMED_OUT: none came; STREAMLINK_STATUS_STOPPED: the flow has
 * stopped, or the output was removed, and all that came before was handed over. Within a callback it does not wait for
 * another call that takes packets from the same tap: STREAMLINK_STATUS_TIMED_OUT.
 *
 * # Safety
 * `tap` is an object that was not destroyed; `packets` points to memory for `capacity` pointers, and `count` for a
 * number; `error` is NULL or points to memory for a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_tap_next(streamlink_tap *tap,
                                      int64_t timeout_ms,
                                      streamlink_packet **packets,
                                      size_t capacity,
                                      size_t *count,
                                      streamlink_error **error);

/**
 * A file descriptor that is readable while streamlink_tap_next() has packets to return at once, or the tap has ended, for
 * poll() and its kin. Now and then it is readable and no packet is there: streamlink_tap_next() then says so. It belongs
 * to the tap: not to be read or closed. A tap that has one calls no function back. -1: the system gives none, or the tap
 * calls back.
 *
 * # Safety
 * `tap` is NULL or an object that was not destroyed.
 */
STREAMLINK_API
int32_t streamlink_tap_fd(const streamlink_tap *tap);

/**
 * From now on the host is called for every packet, on a thread of the engine, until the flow stops, the output is
 * removed or the tap is destroyed. Can be done once.
 *
 * # Safety
 * `tap` is an object that was not destroyed; `callback` may be called with `user` from any thread until then; `error` is
 * NULL or points to memory for a pointer.
 */
STREAMLINK_API
streamlink_status streamlink_tap_set_callback(streamlink_tap *tap,
                                              streamlink_tap_callback callback,
                                              void *user,
                                              streamlink_error **error);

/**
 * Destroys a tap, and waits until its callback has returned; from within a callback it does not wait. The output stays,
 * and hands packets to nobody. NULL is allowed.
 *
 * # Safety
 * `tap` is NULL or an object that was not destroyed, and is not used by another call at the same time.
 */
STREAMLINK_API
void streamlink_tap_destroy(streamlink_tap *tap);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* STREAMLINK_H */
