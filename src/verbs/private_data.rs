//! The few bytes that travel with a connection request, its answer or refusal.
//!
//! What arrives may be longer than what was sent (RoCE pads it to the room that there is), so it carries
//! its own length in its first byte.

use super::error::Error;

/// Bytes that fit: a request on InfiniBand and RoCE has room for 56, the length takes one.
pub const PRIVATE_DATA: usize = 55;

/// What the other side said.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PrivateData {
    bytes: [u8; PRIVATE_DATA],
    len: u8,
}

impl PrivateData {
    /// Reads what arrived; `None` if it is not in this form.
    pub(super) fn unpack(from: &[u8]) -> Option<PrivateData> {
        let (&len, rest) = from.split_first()?;
        let said = rest.get(..usize::from(len))?;
        let mut bytes = [0; PRIVATE_DATA];
        bytes.get_mut(..said.len())?.copy_from_slice(said);
        Some(PrivateData { bytes, len })
    }
}

impl core::ops::Deref for PrivateData {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl core::fmt::Debug for PrivateData {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        (**self).fmt(f)
    }
}

/// What we say, with its length before it.
pub(super) struct Packed {
    bytes: [u8; PRIVATE_DATA + 1],
    len: usize,
}

impl Packed {
    pub(super) fn new(data: &[u8]) -> Result<Packed, Error> {
        let mut bytes = [0; PRIVATE_DATA + 1];
        let room = bytes[1..].get_mut(..data.len());
        room.ok_or(Error::PrivateData(data.len()))?
            .copy_from_slice(data);
        bytes[0] = data.len() as u8;
        Ok(Packed {
            bytes,
            len: data.len() + 1,
        })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_said_arrives_however_much_padding_follows(
            data in proptest::collection::vec(any::<u8>(), 0..=PRIVATE_DATA),
            padding in 0..=PRIVATE_DATA,
        ) {
            let mut sent = Packed::new(&data).unwrap().bytes().to_vec();
            sent.resize(sent.len() + padding, 0);
            let heard = PrivateData::unpack(&sent).unwrap();
            prop_assert_eq!(&heard[..], &data[..]);
        }

        #[test]
        fn any_bytes_are_data_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some(data) = PrivateData::unpack(&bytes) {
                prop_assert_eq!(&data[..], &bytes[1..1 + data.len()]);
            }
        }
    }

    #[test]
    fn too_much_is_refused() {
        let error = Packed::new(&[0; PRIVATE_DATA + 1]).err();
        assert_eq!(error, Some(Error::PrivateData(56)));
        assert!(PrivateData::unpack(&[]).is_none());
        assert!(PrivateData::unpack(&[3, 1, 2]).is_none(), "cut short");
        assert!(PrivateData::unpack(&[60; 61]).is_none(), "longer than fits");
    }
}
