//! Versions.

use std::ffi::c_char;

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");

const fn number(text: &str) -> u32 {
    let bytes = text.as_bytes();
    let mut value = 0;
    let mut i = 0;
    while i < bytes.len() {
        value = value * 10 + (bytes[i] - b'0') as u32;
        i += 1;
    }
    value
}

/// The version of the library as a number: major * 10000 + minor * 100 + patch. Compare it with
/// STREAMLINK_VERSION_NUMBER of the header that the program was compiled with: the major numbers must be equal, and as
/// long as they are 0, the minor ones too.
#[unsafe(no_mangle)]
pub extern "C" fn streamlink_abi_version() -> u32 {
    const MAJOR: u32 = number(env!("CARGO_PKG_VERSION_MAJOR"));
    const MINOR: u32 = number(env!("CARGO_PKG_VERSION_MINOR"));
    const PATCH: u32 = number(env!("CARGO_PKG_VERSION_PATCH"));
    MAJOR * 10_000 + MINOR * 100 + PATCH
}

/// The version of the library as text, as in "0.1.0". Lives as long as the program.
#[unsafe(no_mangle)]
pub extern "C" fn streamlink_version_string() -> *const c_char {
    VERSION.as_ptr().cast()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_and_library_are_of_one_version() {
        let header = include_str!("../../include/streamlink.h");
        let define = |name: &str| {
            let line = header.lines().find_map(|l| l.strip_prefix(&format!("#define STREAMLINK_VERSION_{name} ")));
            line.unwrap().trim().parse::<u32>().unwrap()
        };
        let version = define("MAJOR") * 10_000 + define("MINOR") * 100 + define("PATCH");
        assert_eq!(version, streamlink_abi_version());
    }
}
