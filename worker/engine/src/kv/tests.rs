//! The pool against its invariants, over random histories of claims, growth, commits and releases.

use super::*;
use proptest::prelude::*;

const BLOCK: u32 = 4;

impl BlockPool {
    /// Each block is in exactly one state, and each reference is held by a table.
    fn check(&self, tables: &[&BlockTable]) {
        let usage = self.usage();
        assert_eq!((usage.used + usage.cached + usage.free) as usize, self.blocks.len());
        let mut held = vec![0; self.blocks.len()];
        for id in tables.iter().flat_map(|table| &table.blocks) {
            held[id.0 as usize] += 1;
        }
        for (index, block) in self.blocks.iter().enumerate() {
            let id = BlockId(index as u32);
            assert_eq!(block.refs, held[index], "references of {id:?}");
            let free = self.free.iter().filter(|&&other| other == id).count();
            let cached = self.cached.values().filter(|&&other| other == id).count();
            assert_eq!(free + cached, usize::from(block.refs == 0), "{id:?} in its lists");
            assert!(free == 0 || block.key.is_none(), "{id:?} is free and findable");
        }
        for (key, (id, _)) in &self.found {
            assert_eq!(self.block(*id).key.as_ref(), Some(key));
        }
    }
}

fn tokens(count: u32, salt: u32) -> Vec<u32> {
    (0..count).map(|n| n * 7 + salt).collect()
}

#[test]
fn a_released_prefix_is_found_again_but_never_the_whole_prompt() {
    let mut pool = BlockPool::new(8, BLOCK);
    let prompt = tokens(12, 0);
    let (mut table, covered) = pool.claim_prefix(Salt::SHARED, &prompt);
    assert_eq!(covered, 0);
    assert!(pool.grow(&mut table, 12));
    pool.commit(&mut table, &prompt);
    let first = table.blocks().to_vec();
    pool.release(table);
    assert_eq!(pool.usage(), Usage { used: 0, cached: 3, free: 5 });

    let (table, covered) = pool.claim_prefix(Salt::SHARED, &prompt);
    assert_eq!((covered, table.blocks()), (8, &first[..2]));
    let (other, covered) = pool.claim_prefix(Salt::SHARED, &[&prompt[..], &[1]].concat());
    assert_eq!((covered, other.blocks()), (12, &first[..3]));
    pool.check(&[&table, &other]);
    pool.release(table);
    pool.release(other);
}

#[test]
fn beginnings_are_noted_while_the_blocks_they_end_in_are_held() {
    let ledger = Arc::new(Ledger::default());
    let mut pool = BlockPool::new(4, BLOCK);
    let prompt = tokens(13, 0);
    let mut marks = Marks::new([(3, 30), (9, 31), (13, 32)], Arc::clone(&ledger));
    let (mut table, _) = pool.claim_prefix(Salt::SHARED, &prompt);
    assert!(pool.grow(&mut table, 13));
    let mut cursor = ledger.since(None).cursor;
    let mut news = || {
        let news = ledger.since(Some(cursor));
        cursor = news.cursor;
        (news.stored, news.evicted)
    };
    pool.commit(&mut table, &prompt[..4]);
    pool.mark(&table, &mut marks);
    assert_eq!(news(), (vec![30], vec![]), "what ends before the first block ends counts to it");
    pool.commit(&mut table, &prompt);
    pool.mark(&table, &mut marks);
    assert_eq!(news(), (vec![31, 32], vec![]));
    pool.release(table);
    assert_eq!(news(), (vec![], vec![]), "what is cached is held");
    // Two blocks are taken for something else: the tail goes first.
    let (mut other, _) = pool.claim_prefix(Salt::SHARED, &tokens(8, 5));
    assert!(pool.grow(&mut other, 8));
    assert_eq!(news(), (vec![], vec![32]));
    pool.release(other);
}

#[test]
fn equal_tokens_under_another_parent_are_not_shared() {
    let mut pool = BlockPool::new(8, BLOCK);
    let first = [tokens(4, 0), tokens(4, 9)].concat();
    let (mut table, _) = pool.claim_prefix(Salt::SHARED, &first);
    assert!(pool.grow(&mut table, 8));
    pool.commit(&mut table, &first);
    let second = [tokens(4, 1), tokens(4, 9), vec![1]].concat();
    assert_eq!(pool.claim_prefix(Salt::SHARED, &second).1, 0);
    pool.release(table);
}

#[test]
fn the_tail_of_the_oldest_chain_is_evicted_first() {
    let mut pool = BlockPool::new(3, BLOCK);
    let prompt = tokens(12, 0);
    let (mut table, _) = pool.claim_prefix(Salt::SHARED, &prompt);
    assert!(pool.grow(&mut table, 12));
    pool.commit(&mut table, &prompt);
    pool.release(table);
    let (mut other, _) = pool.claim_prefix(Salt::SHARED, &tokens(4, 5));
    assert!(pool.grow(&mut other, 4));
    assert!(!pool.grow(&mut other, 20), "more than there is");
    let (table, covered) = pool.claim_prefix(Salt::SHARED, &[&prompt[..], &[1]].concat());
    assert_eq!(covered, 8);
    pool.check(&[&table, &other]);
}

proptest! {
    #[test]
    fn every_block_is_in_one_place(
        blocks in 1u32..12,
        steps in prop::collection::vec((0u8..4, 0usize..4, 1u32..30, 0u32..2), 1..60),
    ) {
        let mut pool = BlockPool::new(blocks, BLOCK);
        let mut tables: Vec<(BlockTable, Vec<u32>)> = Vec::new();
        for (action, which, length, salt) in steps {
            let length = length as usize;
            match action {
                0 => {
                    let prompt = tokens(length as u32, salt);
                    let cost = pool.cost(Salt::SHARED, &prompt, length);
                    let before = pool.available();
                    let (mut table, covered) = pool.claim_prefix(Salt::SHARED, &prompt);
                    prop_assert!(covered < length);
                    if pool.grow(&mut table, length) {
                        prop_assert_eq!(before - pool.available(), cost);
                        tables.push((table, prompt));
                    } else {
                        prop_assert!(cost > before);
                        pool.release(table);
                    }
                }
                1 if which < tables.len() => {
                    let (table, prompt) = &mut tables[which];
                    pool.commit(table, prompt);
                }
                2 if which < tables.len() => {
                    let (table, prompt) = &mut tables[which];
                    if pool.grow(table, prompt.len() + length) {
                        prompt.extend(tokens(length as u32, salt));
                    }
                }
                3 if which < tables.len() => pool.release(tables.remove(which).0),
                _ => {}
            }
            pool.check(&tables.iter().map(|(table, _)| table).collect::<Vec<_>>());
        }
        for (table, _) in tables {
            pool.release(table);
        }
        prop_assert_eq!(pool.usage().used, 0);
    }
}

#[test]
fn blocks_are_found_by_who_has_their_salt_alone() {
    let mut pool = BlockPool::new(16, 4);
    let prompt: Vec<u32> = (0..13).collect();
    let (alice, bob) = (Salt::of("user:alice"), Salt::of("user:bob"));
    let (mut table, covered) = pool.claim_prefix(alice, &prompt);
    assert_eq!(covered, 0);
    assert!(pool.grow(&mut table, prompt.len()));
    pool.commit(&mut table, &prompt);
    assert_eq!(pool.cost(bob, &prompt, 13), 4, "what another runs costs all of it");
    assert_eq!(pool.cost(alice, &prompt, 13), 1);
    pool.release(table);
    for other in [bob, Salt::SHARED] {
        assert_eq!(pool.claim_prefix(other, &prompt).1, 0, "it is another's");
    }
    let (table, covered) = pool.claim_prefix(alice, &prompt);
    assert_eq!(covered, 12, "it is her own");
    pool.release(table);
    // The same tokens of another take blocks of their own, and both are found.
    let (mut table, _) = pool.claim_prefix(bob, &prompt);
    assert!(pool.grow(&mut table, prompt.len()));
    pool.commit(&mut table, &prompt);
    pool.release(table);
    assert_eq!(pool.usage().cached, 6);
    for each in [alice, bob] {
        let (table, covered) = pool.claim_prefix(each, &prompt);
        assert_eq!(covered, 12);
        pool.release(table);
    }
}
