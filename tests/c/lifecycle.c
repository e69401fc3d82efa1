/* Engines and errors through the C ABI: lifecycle and misuse. Compiles as C99 and as C++. */
#include "streamlink.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#ifdef NDEBUG
#error "this is a test: assertions must be on"
#endif

int main(void)
{
    assert(streamlink_abi_version() ==
           STREAMLINK_VERSION_MAJOR * 10000 + STREAMLINK_VERSION_MINOR * 100 + STREAMLINK_VERSION_PATCH);
    char text[32];
    snprintf(text, sizeof text, "%d.%d.%d", STREAMLINK_VERSION_MAJOR, STREAMLINK_VERSION_MINOR,
             STREAMLINK_VERSION_PATCH);
    assert(strcmp(text, streamlink_version_string()) == 0);

    /* An out-parameter that is missing: an error, with and without a place for it. */
    streamlink_error *error = NULL;
    assert(streamlink_engine_create(0, NULL, &error) == STREAMLINK_STATUS_INVALID_ARGUMENT);
    assert(error != NULL);
    assert(streamlink_error_status(error) == STREAMLINK_STATUS_INVALID_ARGUMENT);
    assert(strstr(streamlink_error_message(error), "engine") != NULL);
    assert(strcmp(streamlink_error_field(error), "") == 0);
    streamlink_error_free(error);
    assert(streamlink_engine_create(0, NULL, NULL) == STREAMLINK_STATUS_INVALID_ARGUMENT);

    /* NULL is allowed where there is nothing to do. */
    streamlink_error_free(NULL);
    streamlink_engine_destroy(NULL);
    assert(streamlink_error_status(NULL) == STREAMLINK_STATUS_OK);
    assert(strcmp(streamlink_error_message(NULL), "") == 0);

    for (uint32_t threads = 0; threads < 4; threads++) {
        streamlink_engine *engine = NULL;
        error = NULL;
        assert(streamlink_engine_create(threads, &engine, &error) == STREAMLINK_STATUS_OK);
        assert(engine != NULL && error == NULL);
        streamlink_engine_destroy(engine);
    }
    puts("ok");
    return 0;
}
