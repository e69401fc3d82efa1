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

#if !STREAMLINK_VERSION_CHECK(0, 1, 0)
#error "streamlink.hpp needs streamlink.h of the same version"
#endif

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <iterator>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace streamlink {

/// One error of a configuration; see streamlink_config_error.
struct config_error {
    /// The path of the field, as in "sources[0].latency".
    std::string field;
    /// What is wrong with it, without the path.
    std::string message;
    /// A streamlink_config_error_kind.
    std::int32_t kind;
    /// The place in the JSON text, from 1; 0: there is no such text.
    std::uint32_t line;
    std::uint32_t column;
};

/// What a call that fails throws.
class error : public std::runtime_error {
public:
    error(streamlink_status status, std::string field, const std::string &message, std::vector<config_error> errors = {})
        : std::runtime_error(message), status_(status), field_(std::move(field)), errors_(std::move(errors))
    {
    }
    /// The class of the failure.
    streamlink_status status() const noexcept { return status_; }
    /// The path of the field that is wrong, as in "outputs[1].latency"; empty if it is not about a field.
    const std::string &field() const noexcept { return field_; }
    /// All that is wrong with a configuration, one by one; empty if it is not about one.
    const std::vector<config_error> &errors() const noexcept { return errors_; }

private:
    streamlink_status status_;
    std::string field_;
    std::vector<config_error> errors_;
};

namespace detail {

/// Throws what a call has filled in.
inline void check(streamlink_status status, streamlink_error *failure)
{
    if (status == STREAMLINK_STATUS_OK) {
        return;
    }
    std::unique_ptr<streamlink_error, decltype(&streamlink_error_free)> owner(failure, streamlink_error_free);
    std::vector<config_error> errors;
    for (std::size_t i = 0; i < streamlink_error_count(failure); i++) {
        streamlink_config_error one;
        STREAMLINK_INIT(one);
        if (streamlink_error_get(failure, i, &one) == STREAMLINK_STATUS_OK) {
            errors.push_back({one.field, one.message, one.kind, one.line, one.column});
        }
    }
    throw error(status, streamlink_error_field(failure), streamlink_error_message(failure), std::move(errors));
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

/// Calls a function whose last arguments are the places for a text and for an error.
template <typename Function, typename... Arguments> std::string text_of(Function function, Arguments... arguments)
{
    streamlink_text *made = nullptr;
    call(function, arguments..., &made);
    return take(made);
}

/// Calls a change that tells how it was applied.
template <typename Function, typename... Arguments>
streamlink_applied change(Function function, Arguments... arguments)
{
    std::int32_t applied = STREAMLINK_APPLIED_IN_PLACE;
    call(function, arguments..., &applied);
    return static_cast<streamlink_applied>(applied);
}

/// A sequence of values that are made when they are asked for: `Get` is called with an index.
template <typename Value, typename Get> class range {
public:
    class iterator {
    public:
        using iterator_category = std::input_iterator_tag;
        using value_type = Value;
        using difference_type = std::ptrdiff_t;
        using pointer = const Value *;
        using reference = Value;

        iterator(const range *of, std::size_t index) noexcept : of_(of), index_(index) {}
        Value operator*() const { return of_->get_(index_); }
        iterator &operator++() noexcept
        {
            index_++;
            return *this;
        }
        iterator operator++(int) noexcept
        {
            const iterator before = *this;
            index_++;
            return before;
        }
        bool operator==(const iterator &other) const noexcept { return index_ == other.index_; }
        bool operator!=(const iterator &other) const noexcept { return index_ != other.index_; }

    private:
        const range *of_;
        std::size_t index_;
    };

    range(std::size_t size, Get get) : size_(size), get_(std::move(get)) {}
    iterator begin() const noexcept { return iterator(this, 0); }
    iterator end() const noexcept { return iterator(this, size_); }
    std::size_t size() const noexcept { return size_; }
    bool empty() const noexcept { return size_ == 0; }
    Value operator[](std::size_t index) const { return get_(index); }

private:
    std::size_t size_;
    Get get_;
};

/// Milliseconds, as the C calls want them; none: as long as it takes.
inline std::int64_t millis(std::optional<std::chrono::milliseconds> timeout)
{
    return timeout ? static_cast<std::int64_t>(timeout->count()) : -1;
}

} // namespace detail

/// One setting of the table; see streamlink_setting. Its texts live as long as the program.
using setting = streamlink_setting;

/// All settings of flows, sources and outputs.
inline std::vector<setting> settings()
{
    std::vector<setting> all;
    all.reserve(streamlink_setting_count());
    for (std::size_t i = 0; i < streamlink_setting_count(); i++) {
        setting one;
        STREAMLINK_INIT(one);
        detail::call(streamlink_setting_get, i, &one);
        all.push_back(one);
    }
    return all;
}

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

    /// From bytes that are not copied: they must not change until `release` is called, once, from any thread. It must not
    /// throw. When this throws, `release` is not called.
    static packet borrow(streamlink_packet_kind kind, const void *data, std::size_t size, std::function<void()> release,
                         std::uint32_t time = 0)
    {
        auto owner = std::make_unique<std::function<void()>>(std::move(release));
        streamlink_packet *made = nullptr;
        detail::call(streamlink_packet_borrow, static_cast<std::int32_t>(kind), time,
                     static_cast<const std::uint8_t *>(data), size,
                     static_cast<streamlink_release>([](void *user) noexcept {
                         const std::unique_ptr<std::function<void()>> function(
                             static_cast<std::function<void()> *>(user));
                         if (*function) {
                             (*function)();
                         }
                     }),
                     static_cast<void *>(owner.get()), &made);
        owner.release(); // it belongs to the packet now
        return packet(made);
    }
    /// From bytes that are kept, not copied: a vector, a string, or what else has data() and size() in bytes.
    template <typename Bytes> static packet keep(streamlink_packet_kind kind, Bytes bytes, std::uint32_t time = 0)
    {
        static_assert(sizeof(*bytes.data()) == 1, "bytes");
        auto owner = std::make_unique<Bytes>(std::move(bytes));
        streamlink_packet *made = nullptr;
        detail::call(streamlink_packet_borrow, static_cast<std::int32_t>(kind), time,
                     reinterpret_cast<const std::uint8_t *>(owner->data()), owner->size(),
                     static_cast<streamlink_release>([](void *user) noexcept { delete static_cast<Bytes *>(user); }),
                     static_cast<void *>(owner.get()), &made);
        owner.release(); // it belongs to the packet now
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
    /// The stable name of the class of the reason, as in "timed_out".
    std::string_view reason() const noexcept { return info_.reason; }
    /// The name of the flow.
    std::string_view flow() const noexcept { return info_.flow; }
    /// The time of the event, by the system's clock.
    std::chrono::system_clock::time_point at() const noexcept
    {
        return std::chrono::system_clock::time_point(
            std::chrono::duration_cast<std::chrono::system_clock::duration>(std::chrono::milliseconds(info_.at_ms)));
    }
    /// As a sentence, for a log.
    std::string_view sentence() const noexcept { return info_.sentence; }
    std::uint64_t count() const noexcept { return info_.count; }
    /// The gap of a switch, the delay of a retry.
    std::chrono::milliseconds time() const noexcept { return std::chrono::milliseconds(info_.time_ms); }
    const streamlink_event_info &info() const noexcept { return info_; }
    /// As a JSON object; see streamlink_event_to_json().
    std::string to_json() const { return detail::text_of(streamlink_event_to_json, event_); }

private:
    friend class flow;
    friend class event_reader;
    struct borrowed {};
    event(const streamlink_event *handle, borrowed) { read(handle); }
    void read(const streamlink_event *handle)
    {
        event_ = handle;
        STREAMLINK_INIT(info_);
        streamlink_event_get(handle, &info_);
    }
    /// The next event of a queue; nothing: none came in time, or it has ended.
    template <typename Next, typename From>
    static std::optional<event> next(Next function, From *from, std::optional<std::chrono::milliseconds> timeout)
    {
        streamlink_event *made = nullptr;
        streamlink_error *failure = nullptr;
        const streamlink_status status = function(from, detail::millis(timeout), &made, &failure);
        if (status == STREAMLINK_STATUS_STOPPED || status == STREAMLINK_STATUS_TIMED_OUT) {
            streamlink_error_free(failure);
            return std::nullopt;
        }
        detail::check(status, failure);
        return std::optional<event>(std::in_place, made);
    }
    /// Hands an event to a function of the host.
    static void hand_on(void *user, const streamlink_event *one) noexcept
    {
        (*static_cast<std::function<void(const event &)> *>(user))(event(one, borrowed{}));
    }
    const streamlink_event *event_ = nullptr;
    detail::handle<streamlink_event, streamlink_event_free> handle_;
    streamlink_event_info info_;
};

/// A flow at one moment; a range of its endpoints:
///
///     const auto stats = flow.stats();
///     for (const auto &endpoint : stats) std::cout << endpoint.name << ' ' << endpoint.packets << '\n';
///
/// Its texts, and the ranges of players, PIDs and tracks, live as long as this object.
class stats {
    template <typename Value, typename Call> auto range_of(std::size_t endpoint, std::size_t count, Call function) const
    {
        auto make = [from = get(), endpoint, function](std::size_t index) {
            Value one;
            STREAMLINK_INIT(one);
            detail::call(function, from, endpoint, index, &one);
            return one;
        };
        return detail::range<Value, decltype(make)>(count, std::move(make));
    }

public:
    explicit stats(streamlink_stats *handle) noexcept : handle_(handle) {}

    auto begin() const noexcept { return iterator(this, 0); }
    auto end() const noexcept { return iterator(this, size()); }
    /// The players of an endpoint.
    auto players(std::size_t endpoint) const
    {
        return range_of<streamlink_player_stats>(endpoint, (*this)[endpoint].player_count, streamlink_stats_player);
    }
    /// The members of an endpoint that is a group of connections.
    auto members(std::size_t endpoint) const
    {
        return range_of<streamlink_member_stats>(endpoint, (*this)[endpoint].member_count, streamlink_stats_member);
    }
    /// The numbers of refusals of an endpoint, one for each reason.
    auto refusals(std::size_t endpoint) const
    {
        return range_of<streamlink_refusal_stats>(endpoint, (*this)[endpoint].refusal_count, streamlink_stats_refusal);
    }
    /// The PIDs of an endpoint.
    auto pids(std::size_t endpoint) const
    {
        return range_of<streamlink_pid_stats>(endpoint, (*this)[endpoint].pid_count, streamlink_stats_pid);
    }
    /// The tracks of an endpoint that is remultiplexed.
    auto tracks(std::size_t endpoint) const
    {
        return range_of<streamlink_track>(endpoint, (*this)[endpoint].track_count, streamlink_stats_track);
    }
    /// The regions on other machines where the flow has outputs.
    auto regions() const
    {
        auto make = [from = get()](std::size_t index) {
            streamlink_region_stats one;
            STREAMLINK_INIT(one);
            detail::call(streamlink_stats_region, from, index, &one);
            return one;
        };
        return detail::range<streamlink_region_stats, decltype(make)>(streamlink_stats_region_count(get()),
                                                                      std::move(make));
    }
    /// The legs of a region on other machines.
    auto legs(std::size_t region) const
    {
        streamlink_region_stats one;
        STREAMLINK_INIT(one);
        detail::call(streamlink_stats_region, get(), region, &one);
        return range_of<streamlink_member_stats>(region, one.leg_count, streamlink_stats_region_leg);
    }
    /// The name of the flow.
    std::string_view flow() const noexcept { return streamlink_stats_flow(get()); }
    /// As JSON; see streamlink_stats_to_json().
    std::string to_json() const { return detail::text_of(streamlink_stats_to_json, get()); }
    std::uint64_t max_bandwidth() const noexcept { return streamlink_stats_max_bandwidth(get()); }

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

    /// Endpoints one after another.
    class iterator {
    public:
        using iterator_category = std::input_iterator_tag;
        using value_type = streamlink_endpoint_stats;
        using difference_type = std::ptrdiff_t;
        using pointer = const streamlink_endpoint_stats *;
        using reference = streamlink_endpoint_stats;

        iterator(const stats *of, std::size_t index) noexcept : of_(of), index_(index) {}
        streamlink_endpoint_stats operator*() const { return (*of_)[index_]; }
        iterator &operator++() noexcept
        {
            index_++;
            return *this;
        }
        iterator operator++(int) noexcept
        {
            const iterator before = *this;
            index_++;
            return before;
        }
        bool operator==(const iterator &other) const noexcept { return index_ == other.index_; }
        bool operator!=(const iterator &other) const noexcept { return index_ != other.index_; }

    private:
        const stats *of_;
        std::size_t index_;
    };

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
    /// Hands over bytes without copying them; see packet::borrow(). Throws if there is no packet to be made of them.
    streamlink_status push_borrowed(streamlink_packet_kind kind, const void *data, std::size_t size,
                                    std::function<void()> release, std::uint32_t time = 0)
    {
        return push(packet::borrow(kind, data, size, std::move(release), time));
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
    /// Readable while next() has something at once, or the tap has ended; for poll(). See streamlink_tap_fd().
    int fd() const noexcept { return streamlink_tap_fd(handle_.get()); }

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

    /// The SDP that players of RTSP are offered; nothing before a source has described its media. See streamlink_flow_sdp().
    std::optional<std::string> sdp() const
    {
        streamlink_text *sdp = nullptr;
        streamlink_error *failure = nullptr;
        const streamlink_status status = streamlink_flow_sdp(get(), &sdp, &failure);
        if (status == STREAMLINK_STATUS_NOT_FOUND) {
            streamlink_error_free(failure);
            return std::nullopt;
        }
        detail::check(status, failure);
        return detail::take(sdp);
    }

    /// The server and the stream key of an RTMP source that listens, apart.
    std::pair<std::string, std::string> input_server_and_key(const std::string &source) const
    {
        streamlink_text *server = nullptr;
        streamlink_text *key = nullptr;
        detail::call(streamlink_flow_input_server_and_key, get(), source.c_str(), &server, &key);
        const detail::text key_owner(key);
        return {detail::take(server), std::string(streamlink_text_data(key), streamlink_text_length(key))};
    }
    std::string_view name() const noexcept { return streamlink_flow_name(get()); }

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
    streamlink_applied edit_output(const std::string &name, const std::string &key, const std::string &value)
    {
        return detail::change(streamlink_flow_edit_output, get(), name.c_str(), key.c_str(), value.c_str());
    }
    /// See streamlink_flow_set_output_enabled().
    streamlink_applied enable_output(const std::string &name, bool enabled = true)
    {
        return detail::change(streamlink_flow_set_output_enabled, get(), name.c_str(), std::int32_t{enabled});
    }
    /// Adds a backup; see streamlink_flow_add_source().
    void add_source(const endpoint &from)
    {
        const auto made = detail::make_source(from);
        detail::call(streamlink_flow_add_source, get(), made.get());
    }
    /// See streamlink_flow_replace_source().
    streamlink_applied replace_source(const std::string &name, const endpoint &from)
    {
        const auto made = detail::make_source(from);
        return detail::change(streamlink_flow_replace_source, get(), name.c_str(), made.get());
    }
    void remove_source(const std::string &name) { detail::call(streamlink_flow_remove_source, get(), name.c_str()); }
    /// See streamlink_flow_set_source_enabled().
    streamlink_applied enable_source(const std::string &name, bool enabled = true)
    {
        return detail::change(streamlink_flow_set_source_enabled, get(), name.c_str(), std::int32_t{enabled});
    }
    /// Switches to a source by hand; see streamlink_flow_switch_to().
    void switch_to(const std::string &source) { detail::call(streamlink_flow_switch_to, get(), source.c_str()); }
    /// See streamlink_flow_set_failover().
    streamlink_applied failover(streamlink_failover_policy policy, std::chrono::milliseconds time = {},
                                std::chrono::milliseconds loss_threshold = {}, bool cold = false)
    {
        return detail::change(streamlink_flow_set_failover, get(), static_cast<std::int32_t>(policy),
                              static_cast<std::uint32_t>(time.count()),
                              static_cast<std::uint32_t>(loss_threshold.count()), std::int32_t{cold});
    }
    /// The configuration as it is now, as JSON with its secrets hidden; see streamlink_flow_configuration().
    std::string configuration() const { return detail::text_of(streamlink_flow_configuration, get()); }
    /// The same with its secrets: engine::start_json() starts the same flow again. Not for a log.
    std::string configuration_with_secrets() const
    {
        return detail::text_of(streamlink_flow_configuration_with_secrets, get());
    }
    /// See streamlink_flow_kick_player().
    void kick_player(const std::string &output, const std::string &peer)
    {
        detail::call(streamlink_flow_kick_player, get(), output.c_str(), peer.c_str());
    }
    /// See streamlink_flow_edit_source().
    streamlink_applied edit_source(const std::string &name, const std::string &key, const std::string &value)
    {
        return detail::change(streamlink_flow_edit_source, get(), name.c_str(), key.c_str(), value.c_str());
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
        return event::next(streamlink_flow_next_event, get(), timeout);
    }
    /// Readable while next_event() has something at once; for poll().
    int event_fd() const noexcept { return streamlink_flow_event_fd(get()); }
    /// Calls a function for every event, on a thread of the engine. It must not throw. Not to be called from within it.
    void on_event(std::function<void(const event &)> function)
    {
        auto calls = std::make_unique<std::function<void(const event &)>>(std::move(function));
        detail::call(streamlink_flow_set_event_callback, get(), static_cast<streamlink_event_callback>(event::hand_on),
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

/// Flows that were read from JSON, one or a list, and are valid; see streamlink_flow_configs_from_json().
class flow_configs {
public:
    explicit flow_configs(const std::string &json)
    {
        streamlink_flow_configs *made = nullptr;
        detail::call(streamlink_flow_configs_from_json, json.c_str(), &made);
        handle_.reset(made);
    }
    std::size_t size() const noexcept { return streamlink_flow_configs_count(get()); }
    /// The name of a flow; empty if there are not so many.
    std::string_view name(std::size_t index) const noexcept
    {
        const char *found = streamlink_flow_configs_name(get(), index);
        return found == nullptr ? std::string_view() : std::string_view(found);
    }
    const streamlink_flow_configs *get() const noexcept { return handle_.get(); }

private:
    detail::handle<streamlink_flow_configs, streamlink_flow_configs_free> handle_;
};

/// Reads the events of all flows of an engine, each with its flow and its time.
class event_reader {
public:
    explicit event_reader(streamlink_event_reader *handle) noexcept : handle_(handle) {}
    event_reader(event_reader &&) noexcept = default;
    event_reader &operator=(event_reader &&other) noexcept
    {
        handle_ = std::move(other.handle_); // first: until it is destroyed, it calls
        calls_ = std::move(other.calls_);
        return *this;
    }
    ~event_reader() = default;

    /// The next event; nothing: none came in time, or the engine has ended.
    std::optional<event> next(std::optional<std::chrono::milliseconds> timeout = std::nullopt)
    {
        return event::next(streamlink_event_reader_next, handle_.get(), timeout);
    }
    /// Readable while next() has something at once; for poll().
    int fd() const noexcept { return streamlink_event_reader_fd(handle_.get()); }
    /// Calls a function for every event, on a thread of the engine. It must not throw. Not to be called from within it.
    void on_event(std::function<void(const event &)> function)
    {
        auto calls = std::make_unique<std::function<void(const event &)>>(std::move(function));
        detail::call(streamlink_event_reader_set_callback, handle_.get(),
                     static_cast<streamlink_event_callback>(event::hand_on), static_cast<void *>(calls.get()));
        calls_ = std::move(calls);
    }

private:
    std::unique_ptr<std::function<void(const event &)>> calls_;
    // Destroyed before what it calls.
    detail::handle<streamlink_event_reader, streamlink_event_reader_destroy> handle_;
};

/// A peer's request; see streamlink_access_request. Its texts live until the function returns.
class access_request {
public:
    explicit access_request(const streamlink_access_request *from) noexcept : from_(from) {}
    std::string_view flow() const noexcept { return text(from_->flow); }
    std::string_view endpoint() const noexcept { return text(from_->endpoint); }
    std::string_view protocol() const noexcept { return text(from_->protocol); }
    std::string_view peer() const noexcept { return text(from_->peer); }
    /// What the peer asks for; empty where its protocol has none.
    std::string_view stream_id() const noexcept { return text(from_->stream_id); }
    std::string_view app() const noexcept { return text(from_->app); }
    std::string_view key() const noexcept { return text(from_->key); }
    std::string_view path() const noexcept { return text(from_->path); }
    std::string_view user() const noexcept { return text(from_->user); }
    /// Whether it sends, to a source; otherwise it receives, from an output.
    bool publishes() const noexcept { return from_->publishes != 0; }

private:
    static std::string_view text(const char *from) noexcept
    {
        return from == nullptr ? std::string_view() : std::string_view(from);
    }
    const streamlink_access_request *from_;
};

/// The decision about a peer.
class access_reply {
public:
    /// It is let in.
    static access_reply accept() { return access_reply(true, 0, {}); }
    /// An SRT caller is let in if it has this passphrase of 10 to 79 bytes.
    static access_reply accept_with(std::string passphrase) { return access_reply(true, 0, std::move(passphrase)); }
    /// It is refused with a code; see streamlink_access_reply.
    static access_reply reject(std::uint32_t code = 1403) { return access_reply(false, code, {}); }

    void write(streamlink_access_reply *to) const noexcept
    {
        to->reject = code_;
        if (passphrase_.size() >= sizeof(to->passphrase)) {
            to->accept = 0; // no passphrase is so long
            return;
        }
        std::memcpy(to->passphrase, passphrase_.c_str(), passphrase_.size() + 1);
        to->accept = accept_ ? 1 : 0;
    }

private:
    access_reply(bool accept, std::uint32_t code, std::string passphrase)
        : accept_(accept), code_(code), passphrase_(std::move(passphrase))
    {
    }
    bool accept_;
    std::uint32_t code_;
    std::string passphrase_;
};

/// Decides about the publishers and players of listeners; see streamlink_access. When it throws, the peer is refused.
using access_function = std::function<access_reply(const access_request &)>;

/// The settings of an engine; see streamlink_engine_options.
class engine_options {
public:
    engine_options &threads(std::uint32_t number)
    {
        threads_ = number;
        return *this;
    }
    /// The host name that input addresses and playback URLs show for listeners on every address.
    engine_options &public_host(std::string host)
    {
        public_host_ = std::move(host);
        return *this;
    }
    /// Adds a region whose outputs leave from a local address.
    engine_options &region_address(std::string name, std::string address)
    {
        regions_.push_back({std::move(name), std::move(address), false});
        return *this;
    }
    /// Adds a region whose outputs leave from an interface.
    engine_options &region_interface(std::string name, std::string interface_name)
    {
        regions_.push_back({std::move(name), std::move(interface_name), true});
        return *this;
    }
    /// Asked about the publishers and players of listeners, on threads of its own. It must not destroy the engine.
    engine_options &access(access_function function)
    {
        access_ = std::move(function);
        return *this;
    }
    /// The certificates and the private key of listeners that speak TLS, as PEM.
    engine_options &tls_identity(std::string certificates, std::string key)
    {
        certificates_ = std::move(certificates);
        key_ = std::move(key);
        return *this;
    }
    /// Certificates, as PEM, that callers trust beside those of the system.
    engine_options &tls_roots(std::string certificates)
    {
        roots_ = std::move(certificates);
        return *this;
    }
    /// What one peer address may use of a listening port; 0: the default.
    engine_options &peer_limits(std::uint32_t pending, std::uint32_t connections, std::uint32_t refusals_per_second)
    {
        peer_pending_ = pending;
        peer_connections_ = connections;
        peer_refusals_ = refusals_per_second;
        return *this;
    }

private:
    friend class engine;
    struct region {
        std::string name;
        std::string at;
        bool is_interface;
    };
    std::uint32_t threads_ = 0;
    std::string public_host_;
    std::vector<region> regions_;
    access_function access_;
    std::string certificates_, key_, roots_;
    std::uint32_t peer_pending_ = 0, peer_connections_ = 0, peer_refusals_ = 0;
};

/// Owns the threads on which flows run. Flows outlive it, but stop with it.
class engine {
public:
    /// One thread a processor core.
    engine() { create(nullptr); }
    /// See streamlink_engine_options.
    explicit engine(const streamlink_engine_options &options) { create(&options); }
    explicit engine(const engine_options &options)
    {
        streamlink_engine_options all;
        STREAMLINK_INIT(all);
        std::vector<streamlink_region> regions(options.regions_.size());
        for (std::size_t i = 0; i < regions.size(); i++) {
            const auto &from = options.regions_[i];
            STREAMLINK_INIT(regions[i]);
            regions[i].name = from.name.c_str();
            (from.is_interface ? regions[i].interface_name : regions[i].address) = from.at.c_str();
        }
        all.threads = options.threads_;
        all.regions = regions.data();
        all.region_count = static_cast<std::uint32_t>(
            std::min<std::size_t>(regions.size(), std::numeric_limits<std::uint32_t>::max()));
        all.public_host = options.public_host_.empty() ? nullptr : options.public_host_.c_str();
        bytes(options.certificates_, all.tls_certificates, all.tls_certificates_length);
        bytes(options.key_, all.tls_key, all.tls_key_length);
        bytes(options.roots_, all.tls_roots, all.tls_roots_length);
        all.peer_pending = options.peer_pending_;
        all.peer_connections = options.peer_connections_;
        all.peer_refusals_per_second = options.peer_refusals_;
        if (options.access_) {
            access_ = std::make_unique<access_function>(options.access_);
            all.access = ask;
            all.access_user = access_.get();
        }
        create(&all);
    }
    engine(engine &&) noexcept = default;
    engine &operator=(engine &&other) noexcept
    {
        handle_ = std::move(other.handle_); // first: until it is destroyed, it asks
        access_ = std::move(other.access_);
        return *this;
    }
    ~engine() = default;

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
    /// Starts a flow of several that were read, counted from 0.
    flow start(const flow_configs &configs, std::size_t index)
    {
        streamlink_flow *made = nullptr;
        detail::call(streamlink_flow_configs_start, configs.get(), index, get(), &made);
        return flow(made);
    }
    /// The names of the flows that run, in their order.
    std::vector<std::string> flows() const
    {
        streamlink_flow_list *made = nullptr;
        detail::call(streamlink_engine_flows, get(), &made);
        const detail::handle<streamlink_flow_list, streamlink_flow_list_free> owner(made);
        std::vector<std::string> names;
        for (std::size_t i = 0; i < streamlink_flow_list_count(made); i++) {
            names.emplace_back(streamlink_flow_list_name(made, i));
        }
        return names;
    }
    /// Another handle of a flow that runs, by its name; the flow goes on when it is destroyed.
    streamlink::flow find(const std::string &name) const
    {
        streamlink_flow *made = nullptr;
        detail::call(streamlink_engine_flow, get(), name.c_str(), &made);
        return streamlink::flow(made);
    }
    /// A reader of the events of all flows from now on.
    event_reader events() const
    {
        streamlink_event_reader *made = nullptr;
        detail::call(streamlink_event_reader_create, get(), &made);
        return event_reader(made);
    }
    /// Sets or replaces the certificates and the private key of listeners that speak TLS, as PEM.
    void tls_identity(std::string_view certificates, std::string_view key)
    {
        detail::call(streamlink_engine_set_tls_identity, get(),
                     reinterpret_cast<const std::uint8_t *>(certificates.data()), certificates.size(),
                     reinterpret_cast<const std::uint8_t *>(key.data()), key.size());
    }
    /// Adds a region on other machines; see streamlink_engine_add_remote_region(). `options`: a JSON object, or empty.
    void add_remote_region(const std::string &name, const std::string &url, const std::string &options = {})
    {
        detail::call(streamlink_engine_add_remote_region, get(), name.c_str(), url.c_str(),
                     options.empty() ? nullptr : options.c_str());
    }
    /// Statistics of all flows as OpenMetrics text.
    std::string metrics() const { return detail::text_of(streamlink_engine_metrics, get()); }
    /// Statistics of all flows as a JSON array.
    std::string stats_json() const { return detail::text_of(streamlink_engine_stats_to_json, get()); }
    const streamlink_engine *get() const noexcept { return handle_.get(); }

private:
    void create(const streamlink_engine_options *options)
    {
        streamlink_engine *made = nullptr;
        detail::call(streamlink_engine_create, options, &made);
        handle_.reset(made);
    }
    static void bytes(const std::string &from, const std::uint8_t *&data, std::size_t &length) noexcept
    {
        data = reinterpret_cast<const std::uint8_t *>(from.data());
        length = from.size();
    }
    static void ask(void *user, const streamlink_access_request *request, streamlink_access_reply *reply) noexcept
    {
        try {
            (*static_cast<const access_function *>(user))(access_request(request)).write(reply);
        } catch (...) {
            reply->reject = 1500;
            reply->accept = 0;
        }
    }
    std::unique_ptr<access_function> access_;
    // Destroyed before what it asks.
    detail::handle<streamlink_engine, streamlink_engine_destroy> handle_;
};

/// Gets the lines of the log, from any thread: a streamlink_log_level, the target, the message. What it throws is lost.
using log_function = std::function<void(std::int32_t level, std::string_view target, std::string_view message)>;

namespace detail {

/// The function that gets the log. Whoever calls it holds a reference, so that it may be replaced meanwhile.
struct log_sink {
    std::mutex mutex;
    std::shared_ptr<const log_function> function;

    static log_sink &get()
    {
        static log_sink *const sink = new log_sink; // the log may go on until the very end of the program
        return *sink;
    }
    std::shared_ptr<const log_function> swap(std::shared_ptr<const log_function> by)
    {
        const std::lock_guard<std::mutex> guard(mutex);
        function.swap(by);
        return by;
    }
    static void line(void *, std::int32_t level, const char *target, const char *message) noexcept
    {
        try {
            std::shared_ptr<const log_function> now;
            {
                log_sink &sink = get();
                const std::lock_guard<std::mutex> guard(sink.mutex);
                now = sink.function;
            }
            if (now && *now) {
                (*now)(level, target, message);
            }
        } catch (...) {
        }
    }
};

} // namespace detail

/// Hands the log to a function, up to a level; an empty one ends it. See streamlink_log_set().
inline void log_to(streamlink_log_level level, log_function function)
{
    const bool is_set = static_cast<bool>(function);
    auto next = std::make_shared<const log_function>(std::move(function));
    auto before = detail::log_sink::get().swap(std::move(next));
    try {
        detail::call(streamlink_log_set, is_set ? static_cast<streamlink_log>(detail::log_sink::line) : nullptr,
                     static_cast<void *>(nullptr), static_cast<std::int32_t>(level));
    } catch (...) {
        detail::log_sink::get().swap(std::move(before));
        throw;
    }
}

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
