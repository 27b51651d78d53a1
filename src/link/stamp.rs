//! When a record was sent: the processor's clock, the same in all processes of a host.
//!
//! A kernel's ready list is in the order in which things happened, whoever made them happen. Records
//! of one ring are in order anyhow; stamps say in which order records of *different* rings were sent,
//! so that an answer is never seen before its cause. They are compared within one host only, and
//! nothing but the order of delivery follows from them: a peer may write there what it likes.

use super::record::HEADER;

const BITS: u32 = 56;
const AT: usize = HEADER - (BITS / 8) as usize;

/// A moment, in ticks of the processor's clock modulo 2^56 (months).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(u64);

impl Stamp {
    /// The present moment.
    #[inline]
    pub fn now() -> Stamp {
        Stamp(ticks() & (u64::MAX >> (64 - BITS)))
    }

    /// The bare number.
    #[inline]
    pub fn ticks(self) -> u64 {
        self.0
    }

    /// How many ticks lie between an earlier stamp's [`ticks`](Self::ticks) and this one.
    #[inline]
    pub fn ticks_since(self, earlier: u64) -> u64 {
        self.0.wrapping_sub(earlier) & (u64::MAX >> (64 - BITS))
    }

    /// The stamp in a record's header.
    #[inline]
    pub fn of_header(bytes: &[u8; HEADER]) -> Stamp {
        let mut word = [0; 8];
        word[..HEADER - AT].copy_from_slice(&bytes[AT..]);
        Stamp(u64::from_le_bytes(word))
    }

    /// As it stands in a header.
    #[inline]
    pub fn to_bytes(self) -> [u8; HEADER - AT] {
        let mut out = [0; HEADER - AT];
        out.copy_from_slice(&self.0.to_le_bytes()[..HEADER - AT]);
        out
    }

    /// Whether it is later than `other`; of moments more than half a round apart either may be.
    #[inline]
    pub fn is_after(self, other: Stamp) -> bool {
        (self.0.wrapping_sub(other.0) << (64 - BITS)).cast_signed() > 0
    }
}

#[inline]
fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction.
    let ticks = unsafe { core::arch::x86_64::_rdtsc() };
    #[cfg(target_arch = "aarch64")]
    let ticks = {
        let ticks: u64;
        // SAFETY: Linux lets user code read the virtual counter.
        unsafe {
            core::arch::asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack));
        }
        ticks
    };
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let ticks = crate::real::sys::now_ns();
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_is_later_across_the_wrap() {
        let top = Stamp((1 << BITS) - 1);
        let wrapped = Stamp(3);
        assert!(wrapped.is_after(top));
        assert!(!top.is_after(wrapped));
        assert!(!top.is_after(top));
    }
}
