//! From the hidden states of a text's tokens to its one vector.

/// Which hidden states count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// All of them, evenly.
    Mean,
    /// That of the first token, `[CLS]`.
    First,
    /// That of the last token.
    Last,
}

/// A text's vector in the making: hidden states come in order, however they are cut into steps.
#[derive(Debug)]
pub(super) struct Pool {
    pooling: Pooling,
    /// Floats of twice the precision: the mean of a long text loses nothing.
    sum: Vec<f64>,
}

impl Pool {
    pub fn new(pooling: Pooling) -> Self {
        Self { pooling, sum: Vec::new() }
    }

    /// Takes the next token's hidden state.
    pub fn take(&mut self, hidden: &[f32]) {
        match self.pooling {
            _ if self.sum.is_empty() => self.sum.extend(hidden.iter().map(|&x| f64::from(x))),
            Pooling::Mean => {
                self.sum.iter_mut().zip(hidden).for_each(|(sum, &x)| *sum += f64::from(x));
            }
            Pooling::First => {}
            Pooling::Last => {
                self.sum.iter_mut().zip(hidden).for_each(|(sum, &x)| *sum = f64::from(x));
            }
        }
    }

    /// The vector at unit length, so that a sum is as good as a mean; zeros stay zeros.
    pub fn finish(self) -> Vec<f32> {
        let length = self.sum.iter().map(|x| x * x).sum::<f64>().sqrt();
        let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
        self.sum.iter().map(|x| (x * scale) as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_has_unit_length_and_comes_from_the_right_tokens() {
        let vector = |pooling| {
            let mut pool = Pool::new(pooling);
            [[3.0, 0.0], [0.0, 1.0], [0.0, 3.0]].iter().for_each(|hidden| pool.take(hidden));
            pool.finish()
        };
        assert_eq!(vector(Pooling::Mean), [0.6, 0.8]);
        assert_eq!(vector(Pooling::First), [1.0, 0.0]);
        assert_eq!(vector(Pooling::Last), [0.0, 1.0]);
        let mut zero = Pool::new(Pooling::Mean);
        zero.take(&[0.0; 3]);
        assert_eq!(zero.finish(), [0.0; 3]);
    }
}
