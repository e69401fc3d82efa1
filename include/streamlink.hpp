// libstreamlink for C++17: streamlink.h with owners, exceptions, std::string_view and std::chrono. Header only.
//
//     streamlink::engine engine;
//     streamlink::flow_builder match("match-day", 20'000'000);
//     match.source({"venue", "srt://:9000"}).output({"studio", "srt://studio.example.com:7000"});
//     streamlink::flow flow = engine.start(match);
//     std::cout << flow.input_address("venue") << '\n';
//     while (auto event = flow.next_event()) std::cout << event->sentence() << '\n';
//
// Every handle is a class that moves and does not copy; it is destroyed with its object. A moved-from object may only be
// destroyed or assigned to. Calls that fail throw streamlink::error. What is said of threads and callbacks in
// streamlink.h holds here. Packets cost no allocation beyond those of the C calls.
#ifndef STREAMLINK_HPP
#define STREAMLINK_HPP

#include "streamlink.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace streamlink {

/// What a call that fails throws.
class error : public std::runtime_error {
public:
    error(streamlink_status status, std::string field, const std::string &message)
        : std::runtime_error(message), status_(status), field_(std::move(field))
    {
    }
    /// The class of the failure.
    streamlink_status status() const noexcept { return status_; }
    /// The path of the field that is wrong, as in "outputs[1].latency"; empty if it is not about a field.
    const std::string &field() const noexcept { return field_; }

private:
    streamlink_status status_;
    std::string field_;
};

namespace detail {

/// Throws what a call has filled in.
inline void check(streamlink_status status, streamlink_error *failure)
{
    if (status == STREAMLINK_STATUS_OK) {
        return;
    }
    std::unique_ptr<streamlink_error, decltype(&streamlink_error_free)> owner(failure, streamlink_error_free);
    throw error(status, streamlink_error_field(failure), streamlink_error_message(failure));
}

/// Calls a function whose last argument is the place for an error.
template <typename Function, typename... Arguments> void call(Function function, Arguments... arguments)
{
    streamlink_error *failure = nullptr;
    const streamlink_status status = function(arguments..., &failure);
    check(status, failure);
}

template <auto Destroy> struct destroyer {
    template <typename T> void operator()(T *handle) const noexcept { Destroy(handle); }
};

template <typename T, auto Destroy> using handle = std::unique_ptr<T, destroyer<Destroy>>;

using text = handle<streamlink_text, streamlink_text_free>;

inline std::string take(streamlink_text *from)
{
    const text owner(from);
    return std::string(streamlink_text_data(from), streamlink_text_length(from));
}

/// Milliseconds, as the C calls want them; none: as long as it takes.
inline std::int64_t millis(std::optional<std::chrono::milliseconds> timeout)
{
    return timeout ? static_cast<std::int64_t>(timeout->count()) : -1;
}

} // namespace detail

/// A source, or an output, before it runs: its name, its URL, and settings by name; see streamlink_source_create() and
/// streamlink_output_create().
struct endpoint {
    std::string name;
    std::string url;
    std::vector<std::pair<std::string, std::string>> settings;

    endpoint(std::string_view name_, std::string_view url_) : name(name_), url(url_) {}
    /// Sets one setting by its name in the URL grammar.
    endpoint &set(std::string_view key, std::string_view value) &
    {
        settings.emplace_back(key, value);
        return *this;
    }
    /// The same, for an endpoint that is made in one expression.
    endpoint &&set(std::string_view key, std::string_view value) &&
    {
        settings.emplace_back(key, value);
        return std::move(*this);
    }
};

namespace detail {

using source = handle<streamlink_source, streamlink_source_destroy>;
using output = handle<streamlink_output, streamlink_output_destroy>;

inline source make_source(const endpoint &from)
{
    streamlink_source *made = nullptr;
    call(streamlink_source_create, from.name.c_str(), from.url.c_str(), &made);
    source owner(made);
    for (const auto &setting : from.settings) {
        call(streamlink_source_set, made, setting.first.c_str(), setting.second.c_str());
    }
    return owner;
}

inline output make_output(const endpoint &from)
{
    streamlink_output *made = nullptr;
    call(streamlink_output_create, from.name.c_str(), from.url.c_str(), &made);
    output owner(made);
    for (const auto &setting : from.settings) {
        call(streamlink_output_set, made, setting.first.c_str(), setting.second.c_str());
    }
    return owner;
}

} // namespace detail

/// A packet that somebody else owns: in a callback.
class packet_view {
public:
    explicit packet_view(const streamlink_packet *handle) noexcept : handle_(handle) {}
    const std::uint8_t *data() const noexcept { return streamlink_packet_data(handle_); }
    std::size_t size() const noexcept { return streamlink_packet_length(handle_); }
    /// A streamlink_packet_kind.
    std::int32_t kind() const noexcept { return streamlink_packet_kind_of(handle_); }
    /// The timestamp in milliseconds of an RTMP message, the track of an RTSP packet; otherwise 0.
    std::uint32_t time() const noexcept { return streamlink_packet_time(handle_); }
    /// For how long it has been in this process.
    std::chrono::microseconds age() const noexcept
    {
        return std::chrono::microseconds(streamlink_packet_age_us(handle_));
    }
    const streamlink_packet *get() const noexcept { return handle_; }

private:
    const streamlink_packet *handle_;
};

/// A packet; copies share the bytes.
class packet {
public:
    packet() noexcept = default;
    /// Takes over a handle.
    explicit packet(streamlink_packet *handle) noexcept : handle_(handle) {}
    explicit packet(packet_view view) : handle_(streamlink_packet_clone(view.get())) {}
    packet(const packet &other) : handle_(streamlink_packet_clone(other.get())) {}
    packet(packet &&) noexcept = default;
    packet &operator=(packet other) noexcept
    {
        handle_ = std::move(other.handle_);
        return *this;
    }
    ~packet() = default;

    /// From a copy of some bytes; see streamlink_packet_copy().
    static packet copy(streamlink_packet_kind kind, const void *data, std::size_t size, std::uint32_t time = 0)
    {
        streamlink_packet *made = nullptr;
        detail::call(streamlink_packet_copy, static_cast<std::int32_t>(kind), time,
                     static_cast<const std::uint8_t *>(data), size, &made);
        return packet(made);
    }

    packet_view view() const noexcept { return packet_view(get()); }
    const std::uint8_t *data() const noexcept { return view().data(); }
    std::size_t size() const noexcept { return view().size(); }
    std::int32_t kind() const noexcept { return view().kind(); }
    std::uint32_t time() const noexcept { return view().time(); }
    const streamlink_packet *get() const noexcept { return handle_.get(); }
    /// Gives up the handle.
    streamlink_packet *release() noexcept { return handle_.release(); }
    explicit operator bool() const noexcept { return handle_ != nullptr; }

private:
    detail::handle<streamlink_packet, streamlink_packet_free> handle_;
};

/// Something that happened in a flow.
class event {
public:
    explicit event(streamlink_event *handle) : handle_(handle) { read(handle); }

    std::int32_t kind() const noexcept { return info_.kind; }
    /// The source or output that it is about.
    std::string_view endpoint() const noexcept { return info_.endpoint; }
    /// Of a switch the source that was active before.
    std::string_view other() const noexcept { return info_.other; }
    std::string_view peer() const noexcept { return info_.peer; }
    std::string_view detail() const noexcept { return info_.detail; }
    /// As a sentence, for a log.
    std::string_view sentence() const noexcept { return info_.sentence; }
    std::uint64_t count() const noexcept { return info_.count; }
    /// The gap of a switch, the delay of a retry.
    std::chrono::milliseconds time() const noexcept { return std::chrono::milliseconds(info_.time_ms); }
    const streamlink_event_info &info() const noexcept { return info_; }

private:
    friend class flow;
    struct borrowed {};
    event(const streamlink_event *handle, borrowed) { read(handle); }
    void read(const streamlink_event *handle)
    {
        STREAMLINK_INIT(info_);
        streamlink_event_get(handle, &info_);
    }
    detail::handle<streamlink_event, streamlink_event_free> handle_;
    streamlink_event_info info_;
};

/// A flow at one moment.
class stats {
public:
    explicit stats(streamlink_stats *handle) noexcept : handle_(handle) {}

    /// How many endpoints there are: sources first, then outputs.
    std::size_t size() const noexcept { return streamlink_stats_count(handle_.get()); }
    /// One of them. Its texts live as long as this object.
    streamlink_endpoint_stats operator[](std::size_t index) const
    {
        streamlink_endpoint_stats endpoint;
        STREAMLINK_INIT(endpoint);
        detail::call(streamlink_stats_endpoint, get(), index, &endpoint);
        return endpoint;
    }
    streamlink_player_stats player(std::size_t endpoint, std::size_t index) const
    {
        streamlink_player_stats player;
        STREAMLINK_INIT(player);
        detail::call(streamlink_stats_player, get(), endpoint, index, &player);
        return player;
    }
    streamlink_pid_stats pid(std::size_t endpoint, std::size_t index) const
    {
        streamlink_pid_stats pid;
        STREAMLINK_INIT(pid);
        detail::call(streamlink_stats_pid, get(), endpoint, index, &pid);
        return pid;
    }
    std::uint64_t merge_lost() const noexcept { return streamlink_stats_merge_lost(get()); }
    const streamlink_stats *get() const noexcept { return handle_.get(); }

private:
    detail::handle<streamlink_stats, streamlink_stats_free> handle_;
};

/// Where packets are pushed into a flow.
class app_source {
public:
    explicit app_source(streamlink_app_source *handle) noexcept : handle_(handle) {}

    /// Hands over a packet; the result is that of streamlink_app_source_push(). Throws nothing: it is the hot path.
    streamlink_status push(const packet &one) noexcept
    {
        const streamlink_packet *handle = one.get();
        return push(&handle, 1);
    }
    /// Hands over a packet that is not needed any more, which costs less.
    streamlink_status push(packet &&one) noexcept
    {
        streamlink_packet *handle = one.release();
        return streamlink_app_source_give(handle_.get(), &handle, 1);
    }
    /// Many at once.
    streamlink_status push(const streamlink_packet *const *packets, std::size_t count) noexcept
    {
        return streamlink_app_source_push(handle_.get(), packets, count);
    }
    void set_sdp(const std::string &sdp) { detail::call(streamlink_app_source_set_sdp, handle_.get(), sdp.c_str()); }

private:
    detail::handle<streamlink_app_source, streamlink_app_source_destroy> handle_;
};

/// Where packets are taken out of a flow.
class tap {
public:
    explicit tap(streamlink_tap *handle) noexcept : handle_(handle) {}
    tap(tap &&) noexcept = default;
    tap &operator=(tap &&other) noexcept
    {
        handle_ = std::move(other.handle_); // first: until it is destroyed, it calls
        calls_ = std::move(other.calls_);
        ended_ = other.ended_;
        return *this;
    }
    ~tap() = default;

    /// Takes the next packet. Empty: none came in time, or the flow has ended; see ended().
    packet next(std::optional<std::chrono::milliseconds> timeout = std::nullopt)
    {
        streamlink_packet *one = nullptr;
        next(&one, 1, timeout);
        return packet(one);
    }
    /// Takes up to so many packets, each to be given to a `packet`; returns how many.
    std::size_t next(streamlink_packet **packets, std::size_t capacity,
                     std::optional<std::chrono::milliseconds> timeout = std::nullopt)
    {
        std::size_t count = 0;
        streamlink_error *failure = nullptr;
        const streamlink_status status =
            streamlink_tap_next(handle_.get(), detail::millis(timeout), packets, capacity, &count, &failure);
        if (status == STREAMLINK_STATUS_STOPPED || status == STREAMLINK_STATUS_TIMED_OUT) {
            ended_ = status == STREAMLINK_STATUS_STOPPED;
            streamlink_error_free(failure);
            return 0;
        }
        detail::check(status, failure);
        return count;
    }
    /// Whether the flow has stopped, or the output was removed.
    bool ended() const noexcept { return ended_; }

    /// Calls a function for every packet, on a thread of the engine. It must not throw.
    void for_each(std::function<void(packet_view)> function)
    {
        auto calls = std::make_unique<std::function<void(packet_view)>>(std::move(function));
        detail::call(
            streamlink_tap_set_callback, handle_.get(),
            [](void *user, const streamlink_packet *one) noexcept {
                (*static_cast<std::function<void(packet_view)> *>(user))(packet_view(one));
            },
            static_cast<void *>(calls.get()));
        calls_ = std::move(calls);
    }

private:
    std::unique_ptr<std::function<void(packet_view)>> calls_;
    // Destroyed before what it calls.
    detail::handle<streamlink_tap, streamlink_tap_destroy> handle_;
    bool ended_ = false;
};

/// A flow under construction.
class flow_builder {
public:
    /// Its name, and its maximum bandwidth in bits per second.
    flow_builder(const std::string &name, std::uint64_t max_bandwidth)
    {
        streamlink_flow_builder *made = nullptr;
        detail::call(streamlink_flow_builder_create, name.c_str(), max_bandwidth, &made);
        handle_.reset(made);
    }
    /// Adds a source; the second and all further ones are backups.
    flow_builder &source(const endpoint &from)
    {
        const auto made = detail::make_source(from);
        detail::call(streamlink_flow_builder_add_source, handle_.get(), made.get());
        return *this;
    }
    flow_builder &output(const endpoint &to)
    {
        const auto made = detail::make_output(to);
        detail::call(streamlink_flow_builder_add_output, handle_.get(), made.get());
        return *this;
    }
    flow_builder &bandwidth_policy(streamlink_bandwidth_policy policy)
    {
        detail::call(streamlink_flow_builder_set_bandwidth_policy, handle_.get(), static_cast<std::int32_t>(policy));
        return *this;
    }
    flow_builder &coalesce(std::chrono::milliseconds window)
    {
        detail::call(streamlink_flow_builder_set_coalesce, handle_.get(), static_cast<std::uint32_t>(window.count()));
        return *this;
    }
    flow_builder &entry_wait(std::chrono::milliseconds time)
    {
        detail::call(streamlink_flow_builder_set_entry_wait, handle_.get(), static_cast<std::uint32_t>(time.count()));
        return *this;
    }
    /// See streamlink_flow_builder_set_failover().
    flow_builder &failover(streamlink_failover_policy policy, std::chrono::milliseconds time = {},
                           std::chrono::milliseconds loss_threshold = {}, bool cold = false)
    {
        detail::call(streamlink_flow_builder_set_failover, handle_.get(), static_cast<std::int32_t>(policy),
                     static_cast<std::uint32_t>(time.count()), static_cast<std::uint32_t>(loss_threshold.count()),
                     static_cast<std::int32_t>(cold));
        return *this;
    }
    std::string to_json() const
    {
        streamlink_text *json = nullptr;
        detail::call(streamlink_flow_builder_to_json, get(), &json);
        return detail::take(json);
    }
    const streamlink_flow_builder *get() const noexcept { return handle_.get(); }

private:
    detail::handle<streamlink_flow_builder, streamlink_flow_builder_destroy> handle_;
};

/// A running flow; stopped and destroyed with this object.
class flow {
public:
    explicit flow(streamlink_flow *handle) noexcept : handle_(handle) {}
    flow(flow &&) noexcept = default;
    flow &operator=(flow &&other) noexcept
    {
        handle_ = std::move(other.handle_); // first: until it is destroyed, it calls
        calls_ = std::move(other.calls_);
        return *this;
    }
    ~flow() = default;

    void stop() { detail::call(streamlink_flow_stop, get()); }

    /// The URL that encoders send to.
    std::string input_address(const std::string &source) const
    {
        streamlink_text *url = nullptr;
        detail::call(streamlink_flow_input_address, get(), source.c_str(), &url);
        return detail::take(url);
    }
    /// The URL that players fetch from.
    std::string playback_url(const std::string &output) const
    {
        streamlink_text *url = nullptr;
        detail::call(streamlink_flow_playback_url, get(), output.c_str(), &url);
        return detail::take(url);
    }

    void add_output(const endpoint &to)
    {
        const auto made = detail::make_output(to);
        detail::call(streamlink_flow_add_output, get(), made.get());
    }
    void replace_output(const std::string &name, const endpoint &to)
    {
        const auto made = detail::make_output(to);
        detail::call(streamlink_flow_replace_output, get(), name.c_str(), made.get());
    }
    void remove_output(const std::string &name) { detail::call(streamlink_flow_remove_output, get(), name.c_str()); }
    /// See streamlink_flow_edit_output().
    void edit_output(const std::string &name, const std::string &key, const std::string &value)
    {
        detail::call(streamlink_flow_edit_output, get(), name.c_str(), key.c_str(), value.c_str());
    }
    /// See streamlink_flow_kick_player().
    void kick_player(const std::string &output, const std::string &peer)
    {
        detail::call(streamlink_flow_kick_player, get(), output.c_str(), peer.c_str());
    }
    /// See streamlink_flow_edit_source().
    void edit_source(const std::string &name, const std::string &key, const std::string &value)
    {
        detail::call(streamlink_flow_edit_source, get(), name.c_str(), key.c_str(), value.c_str());
    }
    void max_bandwidth(std::uint64_t bits_per_second)
    {
        detail::call(streamlink_flow_set_max_bandwidth, get(), bits_per_second);
    }
    void bandwidth_policy(streamlink_bandwidth_policy policy)
    {
        detail::call(streamlink_flow_set_bandwidth_policy, get(), static_cast<std::int32_t>(policy));
    }

    streamlink::stats stats() const
    {
        streamlink_stats *made = nullptr;
        detail::call(streamlink_flow_stats, get(), &made);
        return streamlink::stats(made);
    }

    /// The next event; nothing: none came in time, or the flow has stopped.
    std::optional<event> next_event(std::optional<std::chrono::milliseconds> timeout = std::nullopt)
    {
        streamlink_event *made = nullptr;
        streamlink_error *failure = nullptr;
        const streamlink_status status = streamlink_flow_next_event(get(), detail::millis(timeout), &made, &failure);
        if (status == STREAMLINK_STATUS_STOPPED || status == STREAMLINK_STATUS_TIMED_OUT) {
            streamlink_error_free(failure);
            return std::nullopt;
        }
        detail::check(status, failure);
        return std::optional<event>(std::in_place, made);
    }
    /// Readable while next_event() has something at once; for poll().
    int event_fd() const noexcept { return streamlink_flow_event_fd(get()); }
    /// Calls a function for every event, on a thread of the engine. It must not throw. Not to be called from within it.
    void on_event(std::function<void(const event &)> function)
    {
        auto calls = std::make_unique<std::function<void(const event &)>>(std::move(function));
        detail::call(
            streamlink_flow_set_event_callback, get(),
            [](void *user, const streamlink_event *one) noexcept {
                (*static_cast<std::function<void(const event &)> *>(user))(event(one, event::borrowed{}));
            },
            static_cast<void *>(calls.get()));
        calls_ = std::move(calls);
    }

    streamlink::app_source app_source(const std::string &name)
    {
        streamlink_app_source *made = nullptr;
        detail::call(streamlink_flow_app_source, get(), name.c_str(), &made);
        return streamlink::app_source(made);
    }
    streamlink::tap tap(const std::string &name)
    {
        streamlink_tap *made = nullptr;
        detail::call(streamlink_flow_tap, get(), name.c_str(), &made);
        return streamlink::tap(made);
    }
    const streamlink_flow *get() const noexcept { return handle_.get(); }

private:
    std::unique_ptr<std::function<void(const event &)>> calls_;
    // Destroyed before what it calls.
    detail::handle<streamlink_flow, streamlink_flow_destroy> handle_;
};

/// Owns the threads on which flows run.
class engine {
public:
    /// One thread a processor core.
    engine() : engine(nullptr) {}
    /// See streamlink_engine_options.
    explicit engine(const streamlink_engine_options &options) : engine(&options) {}

    flow start(const flow_builder &builder)
    {
        streamlink_flow *made = nullptr;
        detail::call(streamlink_flow_start, get(), builder.get(), &made);
        return flow(made);
    }
    flow start_json(const std::string &json)
    {
        streamlink_flow *made = nullptr;
        detail::call(streamlink_flow_start_json, get(), json.c_str(), &made);
        return flow(made);
    }
    /// Statistics of all flows as OpenMetrics text.
    std::string metrics() const
    {
        streamlink_text *text = nullptr;
        detail::call(streamlink_engine_metrics, get(), &text);
        return detail::take(text);
    }
    const streamlink_engine *get() const noexcept { return handle_.get(); }

private:
    explicit engine(const streamlink_engine_options *options)
    {
        streamlink_engine *made = nullptr;
        detail::call(streamlink_engine_create, options, &made);
        handle_.reset(made);
    }
    detail::handle<streamlink_engine, streamlink_engine_destroy> handle_;
};

/// The outputs that a source can feed: "SRT", "RTMP_PUSH", "tap", …
inline std::vector<std::string_view> allowed_outputs(streamlink_input input)
{
    std::vector<std::string_view> names;
    while (const char *name = streamlink_allowed_output(static_cast<std::int32_t>(input), names.size())) {
        names.emplace_back(name);
    }
    return names;
}

} // namespace streamlink

#endif
