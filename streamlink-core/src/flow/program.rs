//! The program of a transport stream as text.

use crate::{error::ConfigErrorKind, media::ProgramChoice};
use std::{fmt, str::FromStr};

/// Maximum length of a service name, in bytes.
const MAX_NAME: usize = 256;

impl FromStr for ProgramChoice {
    type Err = ConfigErrorKind;

    fn from_str(text: &str) -> Result<Self, ConfigErrorKind> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return match text.parse() {
                Ok(number) if number > 0 => Ok(Self::Number(number)),
                _ => Err(ConfigErrorKind::out_of_range(text, "1 to 65535")),
            };
        }
        if text.trim().is_empty() || text.len() > MAX_NAME || text.chars().any(char::is_control) {
            let expected = "a program number from 1 to 65535, or a service name of 1 to 256 bytes";
            return Err(ConfigErrorKind::malformed(text, expected));
        }
        Ok(Self::Name(text.to_owned()))
    }
}

impl fmt::Display for ProgramChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Best => f.write_str("best"),
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Checks a choice that was not read from text.
pub(crate) fn check_program(program: ProgramChoice) -> Result<ProgramChoice, ConfigErrorKind> {
    match program {
        ProgramChoice::Best => Ok(program),
        // A name of digits alone would read back as a number.
        ProgramChoice::Name(name) if name.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(ConfigErrorKind::malformed(name, "a service name that is no number"))
        }
        other => other.to_string().parse(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Bitrate, Flow, Output, Source};

    #[test]
    fn program_of_an_srt_source_reads_and_writes() {
        for (text, wanted) in
            [("7", ProgramChoice::Number(7)), ("News%2024", ProgramChoice::Name("News 24".to_owned()))]
        {
            let source = Source::from_url("in", &format!("srt://:9000?program={text}"));
            assert_eq!(source.program(), wanted);
            assert!(source.to_url().contains(&format!("program={text}")), "{}", source.to_url());
        }
        let typed: Source = Source::srt_listener("in", "127.0.0.1:0").program(ProgramChoice::Number(3)).into();
        assert_eq!(typed.program(), ProgramChoice::Number(3));
        for wrong in ["0", "65536", "", "%00"] {
            let source = Source::from_url("in", &format!("srt://:9000?program={wrong}"));
            let flow = Flow::builder("f", Bitrate::mbps(1)).source(source).build();
            let errors = flow.unwrap_err();
            assert!(errors.iter().any(|error| error.path() == "sources[0].program"), "{wrong}: {errors}");
        }
        let output = Output::from_url("out", "srt://:9001?program=1");
        let flow =
            Flow::builder("f", Bitrate::mbps(1)).source(Source::srt_listener("in", "127.0.0.1:0")).output(output);
        let errors = flow.build().unwrap_err();
        assert!(errors.iter().any(|error| error.path() == "outputs[0].program"), "{errors}");
    }
}
