//! Durations counted into buckets, and the table of them that a destination owns.
//!
//! Recording is two relaxed additions: one to the bucket, one to the sum. The count is the sum
//! of the buckets, so a reader can never see a count that its buckets contradict.
//!
//! A [`Grid`] finds its histogram by two array indices, the method's and the result's; nothing
//! is hashed and no label is written while a call runs. A histogram exists from the first call
//! that needs it. Since the endpoint chooses the status codes, the grid stops making new ones
//! at [`MAX_SERIES`] and counts the rest in one called `_OTHER`.
//!
//! Units: seconds outside, nanoseconds inside.
//! Source of the bounds: OpenTelemetry semantic conventions, `http.client.request.duration`.

use http::{Method, StatusCode};
use mesh_core::{ErrorKind, GrpcCode};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the buckets, in seconds; one more bucket holds what is longer.
pub const BOUNDS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

const BOUNDS_NANOS: [u64; BOUNDS.len()] = {
    let mut nanos = [0; BOUNDS.len()];
    let mut i = 0;
    while i < BOUNDS.len() {
        nanos[i] = (BOUNDS[i] * 1e6 + 0.5) as u64 * 1_000;
        i += 1;
    }
    nanos
};

/// Histograms that one [`Grid`] makes before it falls back to `_OTHER`.
pub const MAX_SERIES: u32 = 256;

/// Durations by bucket.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum: AtomicU64,
}

impl Histogram {
    /// Counts one duration. A bound belongs to the bucket below it.
    pub fn record(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_NANOS.partition_point(|bound| *bound < nanos);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum.fetch_add(nanos, Relaxed);
    }

    /// Durations per bucket, not cumulative; the last bucket has no upper bound.
    #[must_use]
    pub fn buckets(&self) -> [u64; BOUNDS.len() + 1] {
        self.buckets.each_ref().map(|bucket| bucket.load(Relaxed))
    }

    /// The sum of all durations, in seconds.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.sum.load(Relaxed) as f64 / 1e9
    }
}

/// How an HTTP request ended, as its series is labelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// With a response.
    Status(StatusCode),
    /// Without one.
    Error(ErrorKind),
    /// With a response that the mesh made itself, and why.
    Answered(ErrorKind, StatusCode),
    /// One of the ends that got no series of their own.
    Other,
}

const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "_OTHER"];
const OTHER_METHOD: usize = METHODS.len() - 1;
const STATUSES: usize = 500;
const ENDS: usize = STATUSES + ErrorKind::ALL.len();

/// The statuses of answers that the mesh makes itself; 200 is that of gRPC.
const OWN: [u16; 15] = [200, 400, 403, 404, 405, 408, 413, 414, 417, 429, 431, 500, 502, 503, 504];
const ANSWERS: usize = ErrorKind::ALL.len() * OWN.len();

/// A request method as its series is labelled: by name if the standards name it, else `_OTHER`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MethodLabel(u8);

impl From<&Method> for MethodLabel {
    fn from(method: &Method) -> Self {
        Self(match *method {
            Method::GET => 0,
            Method::HEAD => 1,
            Method::POST => 2,
            Method::PUT => 3,
            Method::DELETE => 4,
            Method::CONNECT => 5,
            Method::OPTIONS => 6,
            Method::TRACE => 7,
            Method::PATCH => 8,
            _ => OTHER_METHOD as u8,
        })
    }
}

fn end_index(end: End) -> Option<usize> {
    match end {
        End::Status(status) => {
            usize::from(status.as_u16()).checked_sub(100).filter(|index| *index < STATUSES)
        }
        End::Error(kind) => kind_index(kind).map(|index| STATUSES + index),
        End::Answered(kind, status) => {
            match OWN.iter().position(|known| *known == status.as_u16()) {
                Some(own) => kind_index(kind).map(|index| ENDS + index * OWN.len() + own),
                None => end_index(End::Error(kind)),
            }
        }
        End::Other => None,
    }
}

fn kind_index(kind: ErrorKind) -> Option<usize> {
    ErrorKind::ALL.iter().position(|known| *known == kind)
}

fn end_at(index: usize) -> End {
    if let Some(answer) = index.checked_sub(ENDS) {
        let status = OWN.get(answer % OWN.len()).and_then(|code| StatusCode::from_u16(*code).ok());
        return match (ErrorKind::ALL.get(answer / OWN.len()), status) {
            (Some(kind), Some(status)) => End::Answered(*kind, status),
            _ => End::Other,
        };
    }
    if let Some(kind) = index.checked_sub(STATUSES).and_then(|index| ErrorKind::ALL.get(index)) {
        return End::Error(*kind);
    }
    u16::try_from(index + 100)
        .ok()
        .and_then(|code| StatusCode::from_u16(code).ok())
        .map_or(End::Other, End::Status)
}

type Cell = OnceLock<Box<Histogram>>;
type Row = [Cell; ENDS];
type AnswersRow = [Cell; ANSWERS];

/// Histograms of HTTP requests by method and end.
#[derive(Debug, Default)]
pub struct Grid {
    rows: [OnceLock<Box<Row>>; METHODS.len()],
    answers: [OnceLock<Box<AnswersRow>>; METHODS.len()],
    other: Histogram,
    made: AtomicU32,
}

impl Grid {
    /// Counts one request.
    pub fn record(&self, method: impl Into<MethodLabel>, end: End, took: Duration) {
        self.cell(usize::from(method.into().0), end_index(end)).record(took);
    }

    fn cell(&self, method: usize, end: Option<usize>) -> &Histogram {
        let Some(end) = end else { return &self.other };
        let cell = match end.checked_sub(ENDS) {
            None => {
                let row = &self.rows[method];
                &row.get_or_init(|| Box::new([const { OnceLock::new() }; ENDS]))[end]
            }
            Some(answer) => {
                let row = &self.answers[method];
                &row.get_or_init(|| Box::new([const { OnceLock::new() }; ANSWERS]))[answer]
            }
        };
        if let Some(known) = cell.get() {
            return known;
        }
        if self.made.fetch_add(1, Relaxed) >= MAX_SERIES {
            self.made.fetch_sub(1, Relaxed);
            return &self.other;
        }
        cell.get_or_init(Box::default)
    }

    /// Shows each series that has counted something: method, end, histogram.
    pub fn each(&self, mut show: impl FnMut(&'static str, End, &Histogram)) {
        for (method, (row, answers)) in METHODS.iter().zip(self.rows.iter().zip(&self.answers)) {
            let row = (0..).zip(row.get().into_iter().flat_map(|row| row.iter()));
            let answers = (ENDS..).zip(answers.get().into_iter().flat_map(|row| row.iter()));
            for (index, cell) in row.chain(answers) {
                if let Some(histogram) = cell.get() {
                    show(method, end_at(index), histogram);
                }
            }
        }
        if self.overflowed() > 0 {
            show(METHODS[OTHER_METHOD], End::Other, &self.other);
        }
    }

    /// Requests that were counted as `_OTHER`.
    #[must_use]
    pub fn overflowed(&self) -> u64 {
        self.other.buckets().iter().sum()
    }
}

const CODES: usize = 17;

/// Histograms of gRPC calls by status.
#[derive(Debug, Default)]
pub struct Codes {
    known: [OnceLock<Box<Histogram>>; CODES],
    other: OnceLock<Box<Histogram>>,
}

impl Codes {
    /// Counts one call.
    pub fn record(&self, code: GrpcCode, took: Duration) {
        let cell = usize::try_from(code.number()).ok().and_then(|number| self.known.get(number));
        cell.unwrap_or(&self.other).get_or_init(Box::default).record(took);
    }

    /// Shows each status that has occurred, by name, `_OTHER` for those without one.
    pub fn each(&self, mut show: impl FnMut(&'static str, &Histogram)) {
        for (number, cell) in (0..).zip(&self.known) {
            if let Some(histogram) = cell.get() {
                show(GrpcCode::new(number).name().unwrap_or("_OTHER"), histogram);
            }
        }
        if let Some(histogram) = self.other.get() {
            show("_OTHER", histogram);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(grid: &Grid) -> Vec<(&'static str, End, u64)> {
        let mut seen = Vec::new();
        grid.each(|method, end, histogram| {
            seen.push((method, end, histogram.buckets().iter().sum()));
        });
        seen
    }

    #[test]
    fn a_bound_belongs_to_the_bucket_below_it() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_millis(5));
        histogram.record(Duration::from_nanos(5_000_001));
        histogram.record(Duration::from_secs(11));
        let buckets = histogram.buckets();
        assert_eq!((buckets[0], buckets[1], buckets[14]), (1, 1, 1));
        assert!((histogram.sum() - 11.010_000_001).abs() < 1e-9);
    }

    #[test]
    fn the_bounds_in_nanoseconds_are_exact() {
        for (seconds, nanos) in BOUNDS.iter().zip(BOUNDS_NANOS) {
            assert_eq!(Duration::from_nanos(nanos), Duration::from_secs_f64(*seconds));
        }
    }

    #[test]
    fn a_series_is_found_by_method_and_end() {
        let grid = Grid::default();
        grid.record(&Method::GET, End::Status(StatusCode::OK), Duration::ZERO);
        grid.record(&Method::GET, End::Status(StatusCode::OK), Duration::ZERO);
        grid.record(&Method::POST, End::Error(ErrorKind::Connect), Duration::ZERO);
        let refused = End::Answered(ErrorKind::Shed, StatusCode::SERVICE_UNAVAILABLE);
        grid.record(&Method::POST, refused, Duration::ZERO);
        let purge = Method::from_bytes(b"PURGE").expect("a token");
        grid.record(&purge, End::Status(StatusCode::NOT_FOUND), Duration::ZERO);
        assert_eq!(
            series(&grid),
            [
                ("GET", End::Status(StatusCode::OK), 2),
                ("POST", End::Error(ErrorKind::Connect), 1),
                ("POST", refused, 1),
                ("_OTHER", End::Status(StatusCode::NOT_FOUND), 1),
            ]
        );
    }

    #[test]
    fn every_end_survives_the_way_through_its_index() {
        for code in 100..600 {
            let end = End::Status(StatusCode::from_u16(code).expect("valid"));
            assert_eq!(end_index(end).map(end_at), Some(end));
        }
        for kind in ErrorKind::ALL {
            assert_eq!(end_index(End::Error(*kind)).map(end_at), Some(End::Error(*kind)));
            let status = kind.status();
            let own = End::Answered(*kind, status);
            assert_eq!(end_index(own).map(end_at), Some(own), "{status} is not among our own");
        }
        let teapot = End::Answered(ErrorKind::Shed, StatusCode::IM_A_TEAPOT);
        assert_eq!(end_index(teapot).map(end_at), Some(End::Error(ErrorKind::Shed)));
    }

    #[test]
    fn endpoints_cannot_make_series_without_bound() {
        let grid = Grid::default();
        for code in 100..1000 {
            let status = StatusCode::from_u16(code).expect("valid");
            grid.record(&Method::GET, End::Status(status), Duration::ZERO);
        }
        let seen = series(&grid);
        assert_eq!(seen.len(), MAX_SERIES as usize + 1);
        assert_eq!(seen.iter().map(|(_, _, count)| count).sum::<u64>(), 900);
        assert_eq!(grid.overflowed(), 900 - u64::from(MAX_SERIES));
        grid.record(&Method::GET, End::Status(StatusCode::CONTINUE), Duration::ZERO);
        assert_eq!(series(&grid)[0].2, 2, "a series that exists goes on");
    }

    #[test]
    fn grpc_statuses_go_by_name_and_unknown_numbers_together() {
        let codes = Codes::default();
        for number in [0, 14, 17, 4_000_000] {
            codes.record(GrpcCode::new(number), Duration::ZERO);
        }
        let mut seen = Vec::new();
        codes.each(|name, histogram| seen.push((name, histogram.buckets()[0])));
        assert_eq!(seen, [("OK", 1), ("UNAVAILABLE", 1), ("_OTHER", 2)]);
    }
}
