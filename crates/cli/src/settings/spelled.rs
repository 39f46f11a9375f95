//! Values of the settings file that may be spelled in more than one way.

use std::fmt;

use serde::Deserializer;
use serde::de::{Error, Visitor};

/// A duration as an option spells it: text, or a bare number of seconds.
pub(super) fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    struct Spelled;

    impl Visitor<'_> for Spelled {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration such as 60, \"90s\" or \"2m\"")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }

        fn visit_i64<E: Error>(self, seconds: i64) -> Result<String, E> {
            Ok(seconds.to_string())
        }
    }

    from.deserialize_any(Spelled).map(Some)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct File {
        #[serde(deserialize_with = "super::duration")]
        timeout: Option<String>,
    }

    #[test]
    fn a_bare_number_is_seconds_as_with_the_option() {
        let read = |text| toml::from_str::<File>(text).map(|file| file.timeout);
        assert_eq!(read("timeout = 5").unwrap().as_deref(), Some("5"));
        assert_eq!(read("timeout = \"2m\"").unwrap().as_deref(), Some("2m"));
        assert_eq!(read("").unwrap(), None);
        for text in ["timeout = 1.5", "timeout = true", "timeout = [1]"] {
            assert!(read(text).unwrap_err().message().contains("expected a duration such as"), "{text}");
        }
    }
}
