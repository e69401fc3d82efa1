//! Configuration of SRT's packet filter for forward error correction (`SRTO_PACKETFILTER` of libsrt, and its
//! `packet-filtering-and-fec.md`), and the agreement of two ends about it.

use crate::error::ConfigErrorKind;
use std::{fmt, str::FromStr};

/// Arrangement of the columns of a [`PacketFilter`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FilterLayout {
    /// All columns begin in the same row, so that their repair packets leave one after the other.
    Even,
    /// Each column begins one row below the one before, so that the repair packets are spread over time.
    #[default]
    Staircase,
}

impl FilterLayout {
    const fn name(self) -> &'static str {
        match self {
            Self::Even => "even",
            Self::Staircase => "staircase",
        }
    }
}

/// Use of retransmissions beside a [`PacketFilter`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FilterArq {
    /// Packets that the filter does not repair are lost.
    Never,
    /// Packets are retransmitted that the filter cannot repair any more, or has not repaired in half of the latency.
    #[default]
    OnRequest,
    /// Every lost packet is retransmitted, as without a filter.
    Always,
}

impl FilterArq {
    const fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::OnRequest => "onreq",
            Self::Always => "always",
        }
    }
}

/// Forward error correction of an SRT connection: packets are arranged in rows and columns, and each row and column gets
/// a repair packet, from which one lost packet of it can be rebuilt.
///
/// Both ends have to agree. What one end leaves open is taken from the other; what both set must be equal.
///
/// ```
/// use streamlink_core::{FilterArq, PacketFilter};
///
/// let filter = PacketFilter::new(10, 5)?.arq(FilterArq::Always);
/// assert_eq!(filter.to_string(), "fec,cols:10,rows:5,arq:always");
/// assert_eq!("fec,cols:10,rows:5,arq:always".parse(), Ok(filter));
/// # Ok::<(), streamlink_core::ConfigErrorKind>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketFilter {
    columns: Option<u8>,
    /// Below 0: without repair packets of rows.
    rows: Option<i16>,
    layout: Option<FilterLayout>,
    arq: Option<FilterArq>,
}

/// Matrix of a filter on which both ends have agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FilterMatrix {
    /// 2–255.
    pub(crate) columns: u8,
    /// 1–255. With 1 there are only rows, and no repair packets of columns.
    pub(crate) rows: u8,
    /// Set if rows have repair packets.
    pub(crate) repairs_rows: bool,
    pub(crate) layout: FilterLayout,
    pub(crate) arq: FilterArq,
}

impl PacketFilter {
    /// Maximum number of packets in a matrix.
    pub const MAX_PACKETS: u32 = 4096;
    /// Maximum length of a configuration as text, in bytes, as in libsrt.
    pub(crate) const MAX_TEXT: usize = 64;

    /// Returns a filter with repair packets for rows of so many packets (`columns`, 2–255), and, if there is more than
    /// one row (`rows`, 1–255), for columns.
    ///
    /// # Errors
    /// When a number is out of range, or their product is above [`PacketFilter::MAX_PACKETS`].
    pub fn new(columns: u8, rows: u8) -> Result<Self, ConfigErrorKind> {
        Self { columns: Some(columns), rows: Some(rows.into()), ..Self::default() }.checked()
    }

    /// Returns a filter with repair packets for columns only, of `rows` packets each (2–255).
    ///
    /// # Errors
    /// When a number is out of range, or their product is above [`PacketFilter::MAX_PACKETS`].
    pub fn columns_only(columns: u8, rows: u8) -> Result<Self, ConfigErrorKind> {
        Self { columns: Some(columns), rows: Some(-i16::from(rows)), ..Self::default() }.checked()
    }

    /// Returns a filter whose configuration the peer decides (`fec`).
    pub const fn of_peer() -> Self {
        Self { columns: None, rows: None, layout: None, arq: None }
    }

    /// Sets the arrangement of the columns (that of the peer, or [`FilterLayout::Staircase`]).
    pub fn layout(mut self, layout: FilterLayout) -> Self {
        self.layout = Some(layout);
        self
    }

    /// Sets the use of retransmissions (that of the peer, or [`FilterArq::OnRequest`]).
    pub fn arq(mut self, arq: FilterArq) -> Self {
        self.arq = Some(arq);
        self
    }

    fn checked(self) -> Result<Self, ConfigErrorKind> {
        if let Some(columns) = self.columns.filter(|columns| *columns < 2) {
            return Err(ConfigErrorKind::out_of_range(format!("{columns} columns"), "2 to 255"));
        }
        if let Some(rows) = self.rows.filter(|rows| !matches!(rows, 1..=255 | -255..=-2)) {
            return Err(ConfigErrorKind::out_of_range(format!("{rows} rows"), "1 to 255, or -2 to -255"));
        }
        let packets = u32::from(self.columns.unwrap_or(1)) * u32::from(self.rows.unwrap_or(1).unsigned_abs());
        if packets > Self::MAX_PACKETS {
            let most = format!("at most {} packets", Self::MAX_PACKETS);
            return Err(ConfigErrorKind::out_of_range(format!("a matrix of {packets} packets"), most));
        }
        Ok(self)
    }

    /// Merges the configuration of a listener with that of its caller. `None`: they differ.
    pub(crate) fn merged(self, caller: Self) -> Option<Self> {
        fn one<T: PartialEq + Copy>(ours: Option<T>, theirs: Option<T>) -> Option<Option<T>> {
            match (ours, theirs) {
                (Some(ours), Some(theirs)) if ours != theirs => None,
                (ours, theirs) => Some(ours.or(theirs)),
            }
        }
        Some(Self {
            columns: one(self.columns, caller.columns)?,
            rows: one(self.rows, caller.rows)?,
            layout: one(self.layout, caller.layout)?,
            arq: one(self.arq, caller.arq)?,
        })
    }

    /// Applies the answer of a listener to the configuration of a caller. The listener's word counts.
    pub(crate) fn answered(self, listener: Self) -> Self {
        Self {
            columns: listener.columns.or(self.columns),
            rows: listener.rows.or(self.rows),
            layout: listener.layout.or(self.layout),
            arq: listener.arq.or(self.arq),
        }
    }

    /// Returns the matrix, with defaults for what is left open. `None`: the number of columns is open, or it is too large.
    pub(crate) fn matrix(self) -> Option<FilterMatrix> {
        let Self { columns, rows, layout, arq } = self.checked().ok()?;
        let rows = rows.unwrap_or(1);
        Some(FilterMatrix {
            columns: columns?,
            rows: u8::try_from(rows.unsigned_abs()).ok()?,
            repairs_rows: rows > 0,
            layout: layout.unwrap_or_default(),
            arq: arq.unwrap_or_default(),
        })
    }

    /// Returns the configuration with its defaults written out, as an answer has it.
    pub(crate) fn complete(self) -> Self {
        Self {
            columns: self.columns,
            rows: self.rows.or(Some(1)),
            layout: self.layout.or(Some(FilterLayout::default())),
            arq: self.arq.or(Some(FilterArq::default())),
        }
    }
}

impl fmt::Display for PacketFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fec")?;
        if let Some(columns) = self.columns {
            write!(f, ",cols:{columns}")?;
        }
        if let Some(rows) = self.rows {
            write!(f, ",rows:{rows}")?;
        }
        if let Some(layout) = self.layout {
            write!(f, ",layout:{}", layout.name())?;
        }
        if let Some(arq) = self.arq {
            write!(f, ",arq:{}", arq.name())?;
        }
        Ok(())
    }
}

impl FromStr for PacketFilter {
    type Err = ConfigErrorKind;

    /// Reads libsrt's form: `fec,cols:10,rows:5,layout:staircase,arq:onreq`, of which all but `fec` may be missing.
    fn from_str(s: &str) -> Result<Self, ConfigErrorKind> {
        let bad = |what: &str| {
            let expected = "such as `fec,cols:10,rows:5,layout:even|staircase,arq:never|onreq|always`";
            ConfigErrorKind::malformed(what, expected)
        };
        if s.len() > Self::MAX_TEXT {
            return Err(bad("a filter of more than 64 bytes"));
        }
        let mut parts = s.split(',');
        if parts.next() != Some("fec") {
            return Err(bad(s));
        }
        let mut filter = Self::default();
        for part in parts {
            let (key, value) = part.split_once(':').ok_or_else(|| bad(part))?;
            // A number beyond the type's range is out of the setting's range, too.
            let number = || value.parse::<i32>().map_err(|_| bad(part));
            match key {
                "cols" => {
                    let columns = number()?;
                    let fitting = u8::try_from(columns).map_err(|_| ());
                    let out = || ConfigErrorKind::out_of_range(format!("{columns} columns"), "2 to 255");
                    filter.columns = Some(fitting.map_err(|()| out())?);
                }
                "rows" => {
                    let rows = number()?;
                    let out = || ConfigErrorKind::out_of_range(format!("{rows} rows"), "1 to 255, or -2 to -255");
                    filter.rows = Some(i16::try_from(rows).map_err(|_| out())?);
                }
                "layout" => {
                    let all = [FilterLayout::Even, FilterLayout::Staircase];
                    let found = all.into_iter().find(|layout| layout.name() == value);
                    filter.layout = Some(found.ok_or_else(|| bad(part))?);
                }
                "arq" => {
                    let all = [FilterArq::Never, FilterArq::OnRequest, FilterArq::Always];
                    let found = all.into_iter().find(|arq| arq.name() == value);
                    filter.arq = Some(found.ok_or_else(|| bad(part))?);
                }
                _ => return Err(bad(part)),
            }
        }
        filter.checked()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> PacketFilter {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn packet_filter_reads_and_writes_the_form_of_libsrt() {
        for text in ["fec", "fec,cols:10", "fec,cols:10,rows:-5,arq:never", "fec,cols:20,rows:20,layout:even,arq:onreq"]
        {
            assert_eq!(read(text).to_string(), text);
        }
        // libsrt writes the keys in the order of the alphabet.
        assert_eq!(
            read("fec,arq:always,cols:4,layout:staircase,rows:2"),
            read("fec,cols:4,rows:2,layout:staircase,arq:always")
        );
        for bad in [
            "",
            "none",
            "fec,",
            "fec,cols",
            "fec,cols:",
            "fec,cols:1",
            "fec,cols:256",
            "fec,cols:99999999999",
            "fec,rows:0",
            "fec,rows:-1",
            "fec,rows:256",
            "fec,rows:-32768",
            "fec,cols:255,rows:255",
            "fec,cols:65,rows:-64",
            "fec,layout:odd",
            "fec,arq:maybe",
            "fec,speed:9",
            "FEC,cols:4",
            "adaptive",
        ] {
            assert!(bad.parse::<PacketFilter>().is_err(), "{bad}");
        }
    }

    #[test]
    fn packet_filters_merge_what_one_end_leaves_open() {
        let merged = |ours: &str, theirs: &str| read(ours).merged(read(theirs)).map(|filter| filter.to_string());
        assert_eq!(merged("fec", "fec,cols:10,rows:5").as_deref(), Some("fec,cols:10,rows:5"));
        assert_eq!(merged("fec,cols:10,arq:never", "fec,rows:5").as_deref(), Some("fec,cols:10,rows:5,arq:never"));
        for (ours, theirs) in
            [("fec,cols:10", "fec,cols:11"), ("fec,arq:never", "fec,arq:always"), ("fec,rows:2", "fec,rows:-2")]
        {
            assert_eq!(merged(ours, theirs), None);
        }
        assert_eq!(read("fec").matrix(), None);
        let large = read("fec,rows:255").merged(read("fec,cols:255")).and_then(PacketFilter::matrix);
        assert_eq!(large, None, "each is in range, their product is not");
        let matrix = read("fec,cols:10,rows:-5").matrix().unwrap();
        assert_eq!((matrix.columns, matrix.rows, matrix.repairs_rows), (10, 5, false));
        assert_eq!((matrix.layout, matrix.arq), (FilterLayout::Staircase, FilterArq::OnRequest));
        assert_eq!(read("fec,cols:4").complete().to_string(), "fec,cols:4,rows:1,layout:staircase,arq:onreq");
        assert_eq!(read("fec,cols:4,rows:2").answered(read("fec,cols:5")).to_string(), "fec,cols:5,rows:2");
    }
}
