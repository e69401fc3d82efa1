//! The choice of a program of a transport stream.

/// Program of a transport stream that is remultiplexed to RTMP.
///
/// As text: a program number (service id), 1–65535; or the name of a service (from the SDT, ETSI EN 300 468), 1–256
/// bytes, compared without regard to case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProgramChoice {
    /// The first program with a picture that can be carried, or else the first with sound.
    #[default]
    Best,
    /// The program with this number.
    Number(u16),
    /// The program with this service name.
    Name(String),
}
