//! The buddy allocator: power-of-two blocks of a power-of-two number of units, split in halves and
//! joined again. It knows numbers only, no memory.

/// Which units of a chunk are taken.
///
/// A complete binary tree in an array: a leaf for each unit, the root for all. Each node says how large
/// a free block there is below it, as one more than its order (0: none).
#[derive(Debug)]
pub struct Buddy {
    tree: Vec<u8>,
    /// The chunk has `1 << order` units.
    order: u32,
    taken: usize,
}

impl Buddy {
    /// The largest order.
    pub const MAX_ORDER: u32 = 30;

    /// `1 << order` free units; `order` is at most [`MAX_ORDER`](Self::MAX_ORDER).
    pub fn new(order: u32) -> Buddy {
        let order = order.min(Self::MAX_ORDER);
        let mut tree = vec![0; 2 << order];
        for level in 0..=order {
            let free = (order - level + 1) as u8;
            tree[1 << level..2 << level].fill(free);
        }
        Buddy {
            tree,
            order,
            taken: 0,
        }
    }

    /// Takes a block of `1 << order` units; its first unit is a multiple of its size. The lowest place
    /// of the tightest halves is taken, so that large blocks stay whole.
    pub fn allocate(&mut self, order: u32) -> Option<usize> {
        let wanted = u8::try_from(order.checked_add(1)?).ok()?;
        if self.tree[1] < wanted {
            return None;
        }
        let mut node = 1;
        for _ in order..self.order {
            let (left, right) = (self.tree[2 * node], self.tree[2 * node + 1]);
            let into_left = match (left >= wanted, right >= wanted) {
                (true, true) => left <= right,
                (left_fits, _) => left_fits,
            };
            node = 2 * node + usize::from(!into_left);
        }
        self.tree[node] = 0;
        self.join(node);
        self.taken += 1 << order;
        // The node's place among those of its level.
        Some((node << order) - (1 << self.order))
    }

    /// Gives back the block of `1 << order` units that [`allocate`](Self::allocate) gave. What it never
    /// gave is ignored.
    pub fn free(&mut self, first: usize, order: u32) {
        if order > self.order || first >> self.order != 0 || first & ((1 << order) - 1) != 0 {
            return;
        }
        let node = ((1 << self.order) + first) >> order;
        if self.tree[node] != 0 || !self.is_taken_whole(node) {
            return;
        }
        self.tree[node] = (order + 1) as u8;
        self.join(node);
        self.taken -= 1 << order;
    }

    /// Whether the node was taken as one block: the nodes below it are as they are when nothing is
    /// taken, for nobody has come past it.
    fn is_taken_whole(&self, node: usize) -> bool {
        let level = node.ilog2();
        level == self.order
            || self.tree[2 * node] as u32 == self.order - level
                && self.tree[2 * node + 1] as u32 == self.order - level
    }

    /// Brings the nodes above `node` up to date.
    fn join(&mut self, mut node: usize) {
        let mut whole = self.order - node.ilog2() + 1;
        while node > 1 {
            node /= 2;
            let (left, right) = (self.tree[2 * node], self.tree[2 * node + 1]);
            self.tree[node] = if left as u32 == whole && right as u32 == whole {
                left + 1
            } else {
                left.max(right)
            };
            whole += 1;
        }
    }

    /// How many units are taken.
    pub fn taken(&self) -> usize {
        self.taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Allocate(u32),
        Free(usize),
        FreeNonsense(usize, u32),
    }

    fn step(order: u32) -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..=order + 1).prop_map(Step::Allocate),
            3 => any::<usize>().prop_map(Step::Free),
            1 => (0..2usize << order, 0..=order + 1).prop_map(|(at, o)| Step::FreeNonsense(at, o)),
        ]
    }

    /// The largest order of a free aligned block, by looking at each unit.
    fn largest_free(taken: &[bool]) -> Option<u32> {
        (0..=taken.len().ilog2())
            .rev()
            .find(|order| taken.chunks(1 << order).any(|block| !block.contains(&true)))
    }

    proptest! {
        #[test]
        fn blocks_never_overlap_and_all_room_is_found(
            order in 0..7u32,
            steps in proptest::collection::vec(step(6), 0..300),
        ) {
            let mut buddy = Buddy::new(order);
            let mut taken = vec![false; 1 << order];
            let mut blocks: Vec<(usize, u32)> = Vec::new();
            for step in steps {
                match step {
                    Step::Allocate(wanted) => {
                        let room = largest_free(&taken).is_some_and(|free| free >= wanted);
                        let got = buddy.allocate(wanted);
                        prop_assert_eq!(got.is_some(), room, "order {} of {:?}", wanted, taken);
                        if let Some(first) = got {
                            prop_assert_eq!(first % (1 << wanted), 0, "aligned");
                            let units = &mut taken[first..first + (1 << wanted)];
                            prop_assert!(!units.contains(&true), "overlap");
                            units.fill(true);
                            blocks.push((first, wanted));
                        }
                    }
                    Step::Free(which) if !blocks.is_empty() => {
                        let (first, order) = blocks.swap_remove(which % blocks.len());
                        buddy.free(first, order);
                        taken[first..first + (1 << order)].fill(false);
                    }
                    Step::Free(_) => {}
                    Step::FreeNonsense(first, order) if !blocks.contains(&(first, order)) => {
                        buddy.free(first, order);
                    }
                    Step::FreeNonsense(..) => {}
                }
                prop_assert_eq!(buddy.taken(), taken.iter().filter(|t| **t).count());
            }
            for (first, order) in blocks {
                buddy.free(first, order);
            }
            prop_assert_eq!(buddy.allocate(order), Some(0), "all joined again");
        }
    }

    #[test]
    fn an_order_beyond_all_bounds_is_not_there() {
        let mut buddy = Buddy::new(3);
        assert_eq!(buddy.allocate(u32::MAX), None);
        assert_eq!(buddy.allocate(4), None);
        buddy.free(0, u32::MAX);
        assert_eq!(buddy.taken(), 0);
        assert_eq!(buddy.allocate(3), Some(0));
    }
}
