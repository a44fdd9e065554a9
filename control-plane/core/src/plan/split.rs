//! The replicas that the plan splits: those that shall be, and those that fit on no worker alone.
//!
//! They come after the whole ones, into the room that those leave. Where there is none beside what is not as wanted any
//! more, that goes in the same plan: one at a time, and only when its successor then fits.

use super::PlanLimits;
use super::partition::{Choice, Misfit};
use super::rings::{self, Planned};
use super::room::{Room, held_bytes};
use super::score::{self, Choice as Chosen, Missing};
use super::step::Drops;
use super::view::View;
use std::collections::BTreeMap;

/// What was planned.
#[derive(Default)]
pub(super) struct Split {
    pub(super) planned: Vec<Planned>,
    /// Why a view's replicas could not be split, by the view.
    pub(super) misfits: BTreeMap<usize, Misfit>,
}

pub(super) fn place(
    views: &mut [View<'_>],
    chosen: &mut Vec<Chosen>,
    split: &mut Split,
    drops: &mut Drops,
    room: &mut Room,
    limits: &PlanLimits,
) {
    for (index, view) in views.iter_mut().enumerate() {
        let whole = chosen.iter().filter(|choice| choice.view == index).count();
        let mut missing = view.missing().saturating_sub(whole);
        if let Some(misfit) = rings::missing_label(view, room).filter(|_| missing > 0) {
            split.misfits.insert(index, misfit);
        } else if missing > 0 && splits(view, room) {
            let mut misfit = None;
            while missing > 0 {
                match rings::search(view, room, limits) {
                    Ok((choice, sequences)) => add(split, index, view, choice, sequences, room),
                    Err(reason) => {
                        misfit = Some(reason);
                        break;
                    }
                }
                missing -= 1;
            }
            // A single worker has been told already what the whole model needs.
            let alone = matches!(misfit, Some(Misfit::Workers { .. })) && !view.wish.splits();
            if let Some(misfit) = misfit.filter(|_| !alone) {
                split.misfits.insert(index, misfit);
            }
        }
        let placed = whole + split.planned.iter().filter(|planned| planned.view == index).count();
        let missing = placed == 0 && view.missing() > 0;
        if missing && view.is_settled() && view.may_give_way(drops) {
            instead(index, view, chosen, split, drops, room, limits);
        }
    }
}

/// Whether missing replicas of the view are split: as its deployment says, else when no worker could hold it alone.
fn splits(view: &View<'_>, room: &Room) -> bool {
    let encoder = view.record.version.facts.kv_bytes_per_token == 0;
    view.wish.splits() || (view.wish.may_split() && !encoder && !view.fits_alone(room))
}

fn add(
    split: &mut Split,
    index: usize,
    view: &View<'_>,
    choice: Choice,
    sequences: u32,
    room: &mut Room,
) {
    rings::take(&choice, view, room);
    split.planned.push(Planned { view: index, choice, sequences });
}

/// Something that is not as wanted makes room for its successor.
fn instead(
    index: usize,
    view: &mut View<'_>,
    chosen: &mut Vec<Chosen>,
    split: &mut Split,
    drops: &mut Drops,
    room: &mut Room,
    limits: &PlanLimits,
) {
    let rings = view.rings.old.iter().chain(&view.rings.leaving).cloned().collect::<Vec<_>>();
    for held in rings {
        held.give_back(room);
        let first = view.serving_count() == 0;
        let whole = Missing { view: 0, first };
        let whole = (!view.wish.splits())
            .then(|| score::place(std::slice::from_ref(view), &[whole], room).pop())
            .flatten();
        let found = match whole {
            Some(choice) => {
                chosen.push(Chosen { view: index, ..choice });
                true
            }
            None if splits(view, room) => match rings::search(view, room, limits) {
                Ok((choice, sequences)) => {
                    add(split, index, view, choice, sequences, room);
                    true
                }
                // Closer to what is missing than that every worker is taken.
                Err(misfit) => {
                    split.misfits.insert(index, misfit);
                    false
                }
            },
            None => false,
        };
        if found {
            let gone = held.record.id;
            drops.rings.push(gone);
            drops.gave_way.insert(view.name().clone());
            view.rings.old.retain(|held| held.record.id != gone);
            view.rings.leaving.retain(|held| held.record.id != gone);
            split.misfits.remove(&index);
            return;
        }
        held.take(room);
    }
    if !view.wish.splits() {
        return;
    }
    for nth in 0..view.small.len() {
        let old = view.small[nth];
        let bytes = held_bytes(&view.record.version, old);
        room.give_back(old.worker, view.key(), bytes);
        if let Ok((choice, sequences)) = rings::search(view, room, limits) {
            add(split, index, view, choice, sequences, room);
            drops.placements.push(old.assignment.id);
            drops.gave_way.insert(view.name().clone());
            view.small.remove(nth);
            split.misfits.remove(&index);
            return;
        }
        room.take(old.worker, view.key(), bytes);
    }
}
