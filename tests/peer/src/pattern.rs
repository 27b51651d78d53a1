//! The bytes that travel: each one is a function of seed, connection, direction and stream offset,
//! so that a receiver knows, at any offset, which byte must be there.

/// Which way a stream runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the connecting side to the accepting side.
    ToServer,
    /// From the accepting side to the connecting side.
    ToClient,
}

/// The content of one stream.
#[derive(Clone, Copy)]
pub struct Pattern {
    key: u64,
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Pattern {
    /// The stream of connection `index` in `direction`.
    pub fn new(seed: u64, index: u64, direction: Direction) -> Pattern {
        Pattern {
            key: mix(mix(seed) ^ (index * 2 + direction as u64)),
        }
    }

    /// Writes the bytes that belong at `offset` into `buf`.
    pub fn fill(&self, offset: u64, buf: &mut [u8]) {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let word = mix(self
                .key
                .wrapping_add((at / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
            .to_le_bytes();
            let skip = (at % 8) as usize;
            let n = (8 - skip).min(buf.len() - done);
            buf[done..done + n].copy_from_slice(&word[skip..skip + n]);
            done += n;
        }
    }

    /// Are these the bytes that belong at `offset`? If not: the offset of the first wrong one.
    pub fn check(&self, offset: u64, buf: &[u8]) -> Result<(), u64> {
        let mut expected = [0u8; 4096];
        for (i, chunk) in buf.chunks(4096).enumerate() {
            let at = offset + i as u64 * 4096;
            let expected = &mut expected[..chunk.len()];
            self.fill(at, expected);
            if expected != chunk {
                let bad = expected
                    .iter()
                    .zip(chunk)
                    .position(|(a, b)| a != b)
                    .unwrap_or(0);
                return Err(at + bad as u64);
            }
        }
        Ok(())
    }
}
