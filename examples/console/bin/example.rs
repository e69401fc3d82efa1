//! The console as a program; see `streamlink-console --help`.

fn main() -> std::process::ExitCode {
    streamlink_console::main()
}
