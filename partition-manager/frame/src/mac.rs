//! Addresses of network adapters (IEEE 802-2014, section 8.2).

use serde::{Deserialize, Serialize};
use std::fmt;

/// The address of one station, 48 bits in the order in which they are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Mac(pub [u8; 6]);

/// Why a text is no address of a station.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// It has another form.
    #[error("it has not the form 02:00:00:00:00:01")]
    Form,
    /// It is that of a group of stations.
    #[error("it is a group address: the lowest bit of its first byte is set")]
    Group,
    /// It is all zeros.
    #[error("it is all zeros")]
    Zero,
}

/// Bit of the first byte: a group of stations.
const GROUP: u8 = 1;
/// Bit of the first byte: not given by a maker of adapters, but locally.
const LOCAL: u8 = 2;

impl Mac {
    /// Reads six bytes in hexadecimal, two digits each, with colons between.
    ///
    /// # Errors
    /// [`MacError`] when it has another form, or is not that of one station.
    pub fn parse(text: &str) -> Result<Self, MacError> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part =
                parts.next().filter(|part| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit()));
            *byte = part.and_then(|part| u8::from_str_radix(part, 16).ok()).ok_or(MacError::Form)?;
        }
        if parts.next().is_some() {
            return Err(MacError::Form);
        }
        Self(bytes).station()
    }

    /// The same, if it is that of one station.
    ///
    /// # Errors
    /// [`MacError::Group`] and [`MacError::Zero`].
    pub const fn station(self) -> Result<Self, MacError> {
        match self.0 {
            [0, 0, 0, 0, 0, 0] => Err(MacError::Zero),
            [first, ..] if first & GROUP != 0 => Err(MacError::Group),
            _ => Ok(self),
        }
    }

    /// The locally administered address that follows from names: always the same for the same ones.
    #[must_use]
    pub fn derived(names: &[&str]) -> Self {
        // FNV-1a, 64 bits; no name has a zero byte.
        let bytes = names.iter().flat_map(|name| name.bytes().chain([0]));
        let hash = bytes
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        let folded = (hash ^ (hash >> 48)).to_be_bytes();
        let [_, _, first, second, third, fourth, fifth, sixth] = folded;
        Self([first & !GROUP | LOCAL, second, third, fourth, fifth, sixth])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_address_of_one_station_is_read() {
        let mac = Mac::parse("02:00:5E:00:53:af").unwrap();
        assert_eq!((mac.0, mac.to_string().as_str()), ([2, 0, 0x5e, 0, 0x53, 0xaf], "02:00:5e:00:53:af"));
        for text in
            ["", "02:00:00:00:00", "02:00:00:00:00:01:02", "2:0:0:0:0:1", "02-00-00-00-00-01", "02:00:00:00:00:+1"]
        {
            assert_eq!(Mac::parse(text), Err(MacError::Form), "{text}");
        }
        assert_eq!(Mac::parse("01:00:5e:00:00:01"), Err(MacError::Group));
        assert_eq!(Mac::parse("ff:ff:ff:ff:ff:ff"), Err(MacError::Group));
        assert_eq!(Mac::parse("00:00:00:00:00:00"), Err(MacError::Zero));
    }

    proptest::proptest! {
        #[test]
        fn a_derived_address_is_local_and_of_one_station(a in "[a-z0-9-]{1,63}", b in "[a-z0-9-]{1,63}") {
            let mac = Mac::derived(&[&a, &b]);
            proptest::prop_assert_eq!(mac.station(), Ok(mac));
            proptest::prop_assert_eq!(mac.0[0] & 3, 2);
            proptest::prop_assert_eq!(mac, Mac::derived(&[&a, &b]));
            proptest::prop_assert_eq!(Mac::parse(&mac.to_string()), Ok(mac));
            proptest::prop_assert_ne!(mac, Mac::derived(&[&b, &a, "x"]));
        }
    }
}
