//! The settings that a host may set, as data for its forms.

use crate::{
    error::StreamlinkError,
    guard::{Failure, Versioned, c_string, guard, write_sized},
    status::Status,
};
use std::{
    ffi::{CString, c_char},
    sync::OnceLock,
};
use streamlink_core::{Setting, SettingValue, settings};

/// A setting of a flow or of an endpoint. Texts end with NUL, are "" where there is nothing to say, and live as long as
/// the program. Fields are only ever added, at the end.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StreamlinkSetting {
    /// The size of this struct, in bytes; set by the caller.
    pub size: usize,
    /// The name in URLs, in JSON, and for streamlink_source_set() and streamlink_output_set().
    pub name: *const c_char,
    /// Other names that are read as the same setting, separated by commas.
    pub aliases: *const c_char,
    /// The type of the value: "number", "boolean", "choice", "text" or "form".
    pub value_type: *const c_char,
    /// The range as text: "0 to 10000", "true or false", "auto, udp, tcp", or the form of the text.
    pub range: *const c_char,
    /// The unit of a number: "ms", "bytes".
    pub unit: *const c_char,
    /// The default.
    pub default_value: *const c_char,
    /// The meaning, in one sentence.
    pub summary: *const c_char,
    /// The flows and endpoints that have it, separated by commas: "SRT caller source, SRT caller output".
    pub scopes: *const c_char,
    /// The minimum of a number, or of the length of a text in bytes.
    pub min: u64,
    /// The maximum of a number, or of the length of a text in bytes.
    pub max: u64,
    /// Not 0: the value is secret.
    pub secret: i32,
    /// Zero.
    pub reserved: i32,
}
// SAFETY: `repr(C)`, it begins with its size, and all bytes zero are a value.
unsafe impl Versioned for StreamlinkSetting {}

/// Texts of a setting that the library does not have as C strings.
struct Texts {
    setting: &'static Setting,
    name: CString,
    aliases: CString,
    value_type: CString,
    range: CString,
    unit: CString,
    default_value: CString,
    summary: CString,
    scopes: CString,
}

fn all() -> &'static [Texts] {
    static ALL: OnceLock<Vec<Texts>> = OnceLock::new();
    ALL.get_or_init(|| {
        let texts = |setting: &'static Setting| {
            let scopes: Vec<&str> = setting.scopes.iter().map(|scope| scope.name()).collect();
            Texts {
                setting,
                name: c_string(setting.name),
                aliases: c_string(setting.aliases.join(", ")),
                value_type: c_string(setting.value.type_name()),
                range: c_string(setting.range()),
                unit: c_string(setting.unit),
                default_value: c_string(setting.default),
                summary: c_string(setting.summary),
                scopes: c_string(scopes.join(", ")),
            }
        };
        settings().map(texts).collect()
    })
}

/// The number of settings in the table. A name occurs several times where its type, range or default depends on the
/// endpoint.
#[unsafe(no_mangle)]
pub extern "C" fn streamlink_setting_count() -> usize {
    all().len()
}

/// Fills in a setting of the table. `index` counts from 0 to streamlink_setting_count() - 1; beyond, the status is
/// STREAMLINK_STATUS_INVALID_ARGUMENT.
///
/// # Safety
/// `setting` points to a struct that begins with its size; `error` is NULL or points to a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_setting_get(
    index: usize,
    setting: *mut StreamlinkSetting,
    error: *mut *mut StreamlinkError,
) -> Status {
    // SAFETY: as the contract says.
    unsafe {
        guard(error, || {
            let found = all().get(index).ok_or_else(|| Failure::argument("index: there is no such setting"))?;
            let (min, max) = match found.setting.value {
                SettingValue::Number { min, max } | SettingValue::Text { min, max } => (min, max),
                _ => (0, 0),
            };
            let value = StreamlinkSetting {
                size: size_of::<StreamlinkSetting>(),
                name: found.name.as_ptr(),
                aliases: found.aliases.as_ptr(),
                value_type: found.value_type.as_ptr(),
                range: found.range.as_ptr(),
                unit: found.unit.as_ptr(),
                default_value: found.default_value.as_ptr(),
                summary: found.summary.as_ptr(),
                scopes: found.scopes.as_ptr(),
                min,
                max,
                secret: found.setting.secret.into(),
                reserved: 0,
            };
            write_sized(setting, &value, "setting")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{ffi::CStr, mem::MaybeUninit, ptr::null_mut};

    #[test]
    fn settings_of_the_table_are_those_of_the_library() {
        assert_eq!(streamlink_setting_count(), settings().count());
        for (index, expected) in settings().enumerate() {
            let mut setting = MaybeUninit::<StreamlinkSetting>::zeroed();
            // SAFETY: the struct begins with its size.
            let setting = unsafe {
                setting.as_mut_ptr().cast::<usize>().write(size_of::<StreamlinkSetting>());
                assert_eq!(streamlink_setting_get(index, setting.as_mut_ptr(), null_mut()), Status::Ok);
                setting.assume_init()
            };
            // SAFETY: texts of the program.
            let text = |text| unsafe { CStr::from_ptr(text) }.to_str().unwrap();
            assert_eq!(text(setting.name), expected.name);
            assert_eq!(text(setting.range), expected.range());
            assert_eq!(text(setting.default_value), expected.default);
            assert_eq!(text(setting.scopes).split(", ").count(), expected.scopes.len());
            assert_eq!(setting.secret != 0, expected.secret);
            if expected.name == "latency" && expected.default == "120" {
                assert_eq!((setting.min, setting.max, text(setting.unit)), (0, 10_000, "ms"));
            }
        }
        let mut setting = [size_of::<StreamlinkSetting>(), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: the array is as large as the struct.
        let status = unsafe { streamlink_setting_get(usize::MAX, setting.as_mut_ptr().cast(), null_mut()) };
        assert_eq!(status, Status::InvalidArgument);
        assert_eq!(setting[1], 0);
    }
}
