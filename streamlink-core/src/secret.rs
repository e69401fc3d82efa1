//! Secret text that is never printed, and is wiped from memory when it is dropped.

use std::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Secret text. Its memory is overwritten when it is dropped. Copies that were made from [`Secret::reveal`] are not.
#[derive(Clone, Default, PartialEq, Eq, Hash, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Secret(String);

impl Secret {
    /// Returns the secret in clear text.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_is_hidden_and_wiped() {
        fn is_wiped<T: ZeroizeOnDrop>() {}
        is_wiped::<Secret>();
        let mut secret = Secret::from("correct horse");
        assert_eq!(format!("{secret:?}"), "(hidden)");
        secret.zeroize();
        assert_eq!(secret.reveal(), "");
    }
}
