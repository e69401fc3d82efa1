/*
 * libstreamlink: moves live video from one source to any number of outputs.
 *
 * Conventions
 *   - Every call that can fail returns a streamlink_status; 0 is success.
 *   - Where a call takes a `streamlink_error **`, it may be NULL. On failure it is filled with an error that the
 *     caller frees with streamlink_error_free(); on success it is not touched. No other out-parameter is touched
 *     on failure.
 *   - Handles have one owner, who passes them to the matching _destroy() function; NULL is allowed there.
 *   - Any handle may be used from any thread, but not after it was destroyed.
 *   - Strings are UTF-8 and end with NUL. A string that is returned lives as long as the object that it came from.
 *   - No call lets a panic out; one that happened within is STREAMLINK_STATUS_INTERNAL.
 *
 * This file is generated from streamlink-ffi; do not edit it.
 */

#ifndef STREAMLINK_H
#define STREAMLINK_H

#include <stddef.h>
#include <stdint.h>

/** The version of this header. streamlink_abi_version() is that of the library. */
#define STREAMLINK_VERSION_MAJOR 0
#define STREAMLINK_VERSION_MINOR 1
#define STREAMLINK_VERSION_PATCH 0

/**
 * What became of a call.
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
   * The configuration is right, but this version has no driver for a part of it.
   */
  STREAMLINK_STATUS_UNSUPPORTED = 3,
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
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum streamlink_status streamlink_status;
#else
typedef int32_t streamlink_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Owns the threads on which flows run.
 */
typedef struct streamlink_engine streamlink_engine;

/**
 * What went wrong. Freed with streamlink_error_free().
 */
typedef struct streamlink_error streamlink_error;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Creates an engine with `threads` threads; 0: one a processor core. On success `*engine` is the new engine, which
 * is to be destroyed with streamlink_engine_destroy().
 *
 * # Safety
 * `engine` points to memory for a pointer; `error` is NULL or does so too.
 */
streamlink_status streamlink_engine_create(uint32_t threads,
                                           streamlink_engine **engine,
                                           streamlink_error **error);

/**
 * Stops the flows of an engine, waits until their sockets are closed, and destroys it. NULL is allowed.
 *
 * # Safety
 * `engine` is NULL or an engine that was not destroyed, and is not used by another call at the same time.
 */
void streamlink_engine_destroy(streamlink_engine *engine);

/**
 * The status of the call that failed. NULL: STREAMLINK_STATUS_OK.
 *
 * # Safety
 * `error` is NULL or an error that was not freed.
 */
streamlink_status streamlink_error_status(const streamlink_error *error);

/**
 * The path of the field that is wrong, as in "outputs[1].latency"; "" if the error is not about a field. Lives as
 * long as the error. NULL: "".
 *
 * # Safety
 * `error` is NULL or an error that was not freed.
 */
const char *streamlink_error_field(const streamlink_error *error);

/**
 * What went wrong, for people: all that is wrong, if it is a configuration. Lives as long as the error. NULL: "".
 *
 * # Safety
 * `error` is NULL or an error that was not freed.
 */
const char *streamlink_error_message(const streamlink_error *error);

/**
 * Frees an error. NULL is allowed.
 *
 * # Safety
 * `error` is NULL or an error that was not freed.
 */
void streamlink_error_free(streamlink_error *error);

/**
 * The version of the library as a number: major * 10000 + minor * 100 + patch. Compare it with the
 * STREAMLINK_VERSION_ macros of the header that the program was compiled with: the major numbers must be equal, and as
 * long as they are 0, the minor ones too.
 */
uint32_t streamlink_abi_version(void);

/**
 * The version of the library as text, as in "0.1.0". Lives as long as the program.
 */
const char *streamlink_version_string(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* STREAMLINK_H */
