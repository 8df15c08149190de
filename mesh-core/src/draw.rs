//! Random draws as an argument, so that a seed repeats every decision.

/// A source of random numbers.
///
/// Any `FnMut() -> u64` is one:
///
/// ```
/// use mesh_core::Draw;
///
/// let mut always_first = || 0u64;
/// assert_eq!(always_first.below(10), 0);
/// ```
pub trait Draw {
    /// 64 random bits.
    fn bits(&mut self) -> u64;

    /// A number in `0..bound`; 0 if `bound` is 0.
    ///
    /// Multiply and shift: the bias is below `bound / 2^64`.
    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.bits()) * bound as u128) >> 64) as usize
    }

    /// A number in `[0, 1)`.
    fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl<F: FnMut() -> u64> Draw for F {
    fn bits(&mut self) -> u64 {
        self()
    }
}
