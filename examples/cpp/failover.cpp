// Two encoders feed a flow over SRT; when the active one dies the other takes over, and players stay connected.
//
//     failover [SWITCHES]
//
// Start two encoders, as in `ffmpeg -re -i FILE -c copy -f mpegts "srt://…?mode=caller"`, with the addresses that it
// prints, and a player with the URL; then kill an encoder. It ends after so many switches, or never. PUBLIC_HOST in the
// environment is the host name that the addresses show for listeners on every address.
#include <streamlink.hpp>

#include <cstdlib>
#include <iostream>
#include <limits>

int main(int count, char **arguments)
try {
    long switches = count > 1 ? std::strtol(arguments[1], nullptr, 10) : std::numeric_limits<long>::max();

    streamlink::flow_builder builder("always-on", 20'000'000);
    builder.source(streamlink::endpoint("main", "srt://127.0.0.1:0?mode=listener").set("latency", "120"))
        .source({"backup", "srt://127.0.0.1:0?mode=listener"})
        .output(streamlink::endpoint("players", "srt://127.0.0.1:0?mode=listener").set("max_players", "100"))
        .failover(STREAMLINK_FAILOVER_POLICY_STAY, {}, std::chrono::milliseconds(500));

    streamlink::engine_options options;
    if (const char *host = std::getenv("PUBLIC_HOST")) {
        options.public_host(host);
    }
    streamlink::engine engine(options);
    streamlink::flow flow = engine.start(builder);
    std::cout << "main   " << flow.input_address("main") << '\n'
              << "backup " << flow.input_address("backup") << '\n'
              << "watch  " << flow.playback_url("players") << std::endl;

    while (auto event = flow.next_event()) {
        std::cout << event->sentence() << std::endl;
        if (event->kind() == STREAMLINK_EVENT_KIND_SWITCHED) {
            std::cout << event->other() << " -> " << event->endpoint() << ", gap " << event->time().count() << " ms"
                      << std::endl;
            if (--switches == 0) {
                break;
            }
        }
    }

    const auto stats = flow.stats();
    for (const auto &endpoint : stats) {
        std::cout << endpoint.name << ": " << endpoint.packets << " packets" << (endpoint.active ? ", active" : "")
                  << '\n';
    }
    return EXIT_SUCCESS;
} catch (const streamlink::error &failure) {
    std::cerr << "error " << failure.status() << ": " << failure.what() << '\n';
    return EXIT_FAILURE;
}
