//! The effect of an update on the weights, for the log.

use std::iter::Sum;
use std::ops::Add;

/// Counts and sums over the elements of one tensor or of several: reports add up.
///
/// u is the intended update of an element, before it is added to the master; d is the change of the rounded live weight.
/// The sums run over the elements whose d is finite.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct UpdateReport {
    /// Elements.
    pub elements: u64,
    /// Elements whose live weight changed its value, also to NaN or infinity. A NaN that stays NaN hasn't changed.
    pub moved: u64,
    /// Elements whose live weight is NaN or infinite after the update.
    pub nonfinite: u64,
    /// Sum of u^2, in f64.
    pub intended_square: f64,
    /// Sum of d^2, in f64.
    pub actual_square: f64,
    /// Sum of u d, in f64.
    pub product: f64,
}

impl UpdateReport {
    /// L2 norm of the intended update.
    pub fn update_norm(&self) -> f64 {
        self.intended_square.sqrt()
    }

    /// Cosine between the intended update and the change of the live weights; NaN if either is zero.
    pub fn cosine(&self) -> f64 {
        self.product / (self.intended_square.sqrt() * self.actual_square.sqrt())
    }
}

impl Add for UpdateReport {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            elements: self.elements + other.elements,
            moved: self.moved + other.moved,
            nonfinite: self.nonfinite + other.nonfinite,
            intended_square: self.intended_square + other.intended_square,
            actual_square: self.actual_square + other.actual_square,
            product: self.product + other.product,
        }
    }
}

impl Sum for UpdateReport {
    fn sum<I: Iterator<Item = Self>>(reports: I) -> Self {
        reports.fold(Self::default(), Add::add)
    }
}
