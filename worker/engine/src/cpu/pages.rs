//! Zeroed memory straight from the system, for what is large: weights and the KV cache.
//!
//! A page costs nothing until it is written, and all of them go back when the owner does. An allocator promises neither: once
//! it has had a large piece back it may hand out parts of that, which it then has to clear, and a cache of which a hundredth
//! is in use becomes resident as a whole.

use bytemuck::Pod;
use memmap2::MmapMut;

/// Zeroed at first, and aligned to a page.
pub(crate) struct Pages {
    map: MmapMut,
    bytes: usize,
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pages({} bytes)", self.bytes)
    }
}

impl Pages {
    /// Room for so many elements; `None` when the system refuses.
    pub fn zeroed<T: Pod>(count: usize) -> Option<Self> {
        let bytes = count.checked_mul(size_of::<T>())?;
        Some(Self { map: MmapMut::map_anon(bytes).ok()?, bytes })
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn get<T: Pod>(&self) -> &[T] {
        bytemuck::cast_slice(&self.map[..self.bytes])
    }

    pub fn get_mut<T: Pod>(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.map[..self.bytes])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_zeroed_and_hold_what_is_written() {
        let mut pages = Pages::zeroed::<u16>(10_000).expect("little memory");
        assert!(pages.get::<u16>().iter().all(|half| *half == 0));
        pages.get_mut::<u16>()[9_999] = 0x1234;
        assert_eq!((pages.bytes(), pages.get::<u16>()[9_999]), (20_000, 0x1234));
        assert_eq!(pages.get::<u8>().as_ptr().align_offset(64), 0);
        assert!(Pages::zeroed::<u16>(0).expect("none").get::<u16>().is_empty());
        assert!(Pages::zeroed::<u16>(usize::MAX).is_none());
        assert!(Pages::zeroed::<u8>(usize::MAX / 2).is_none());
    }
}
