//! Who gets a place at the socket, so that nobody keeps others out: every user whom the agent serves has places of his own,
//! all strangers together have a few.
//!
//! A connection that has not said yet what it wants is idle. When a user's places are taken, his oldest idle connection is
//! shown out for the new one; when none is idle, the new one is turned away. Connections of others are not touched.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio_util::sync::CancellationToken;
use walward_base::Locked;

/// Connections of one user at the same time. PostgreSQL asks for one file at a time, a recovery and a person come on top.
pub const PLACES_OF_A_USER: usize = 256;
/// Connections at the same time of everybody who is neither root, nor the agent's user, nor the owner of a cluster.
pub const PLACES_OF_STRANGERS: usize = 16;

/// Whose places a connection takes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Visitor {
    /// A user whom the agent serves: there are as many as owners of clusters, and two.
    Known(u32),
    /// Anybody else. Told apart they would need a bound again: one user may have many ids (subuid(5)).
    Stranger,
}

impl Visitor {
    fn places(self) -> usize {
        match self {
            Self::Known(_) => PLACES_OF_A_USER,
            Self::Stranger => PLACES_OF_STRANGERS,
        }
    }
}

/// The places that are taken.
#[derive(Debug, Clone, Default)]
pub struct Doors(Arc<Mutex<HashMap<Visitor, Taken>>>);

#[derive(Debug, Default)]
struct Taken {
    count: usize,
    /// The idle ones in the order of their coming.
    idle: BTreeMap<u64, CancellationToken>,
    next: u64,
}

impl Doors {
    /// A place for `visitor`; `None` when all of his are taken by work.
    pub fn enter(&self, visitor: Visitor) -> Option<Seat> {
        let mut all = self.lock();
        let taken = all.entry(visitor).or_default();
        if taken.count >= visitor.places() {
            // The place is the newcomer's from now on.
            taken.idle.pop_first()?.1.cancel();
        } else {
            taken.count += 1;
        }
        let (number, out) = (taken.next, CancellationToken::new());
        taken.next += 1;
        taken.idle.insert(number, out.clone());
        Some(Seat { doors: self.clone(), visitor, number, out })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Visitor, Taken>> {
        self.0.locked()
    }
}

/// One connection's place, given back when it is dropped.
#[derive(Debug)]
pub struct Seat {
    doors: Doors,
    visitor: Visitor,
    number: u64,
    out: CancellationToken,
}

impl Seat {
    /// Ends when somebody else needs the place of this idle connection.
    pub async fn shown_out(&self) {
        self.out.cancelled().await;
    }

    /// The connection is idle no longer; `false` when it was shown out already.
    pub fn begins_work(&self) -> bool {
        self.doors.lock().get_mut(&self.visitor).is_some_and(|taken| taken.idle.remove(&self.number).is_some())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut all = self.doors.lock();
        // Who was shown out has given the place to somebody else. That happens under the lock: asked before it, both would
        // give the place away.
        if self.out.is_cancelled() {
            return;
        }
        if let Some(taken) = all.get_mut(&self.visitor) {
            taken.idle.remove(&self.number);
            taken.count -= 1;
            if taken.count == 0 {
                all.remove(&self.visitor);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn taken(doors: &Doors, visitor: Visitor) -> usize {
        doors.lock().get(&visitor).map_or(0, |taken| taken.count)
    }

    #[test]
    fn the_oldest_idle_connection_makes_room_and_one_at_work_never() {
        let doors = Doors::default();
        let mut places: Vec<Seat> = (0..PLACES_OF_STRANGERS).map(|_| doors.enter(Visitor::Stranger).unwrap()).collect();
        assert!(places[0].begins_work());
        let newcomer = doors.enter(Visitor::Stranger).unwrap();
        assert!(!places[0].out.is_cancelled() && places[1].out.is_cancelled() && !places[1].begins_work());
        assert!(places[2..].iter().chain([&newcomer]).all(Seat::begins_work));
        assert!(doors.enter(Visitor::Stranger).is_none(), "all are at work");
        let known = doors.enter(Visitor::Known(1000)).expect("others are not touched");
        assert!(known.begins_work());
        places.remove(0);
        assert!(doors.enter(Visitor::Stranger).is_some());
        drop((places, newcomer, known));
        assert!(doors.lock().is_empty(), "nothing is kept of who has gone");
    }

    proptest! {
        /// Whatever comes, begins and goes: no user has more than his places, and a flood never turns away another.
        #[test]
        fn places_are_bounded_and_apart(steps in proptest::collection::vec((0u8..3, 0usize..600), 0..1500)) {
            let doors = Doors::default();
            let mut strangers: Vec<Seat> = Vec::new();
            for (step, at) in steps {
                match step {
                    0 => strangers.extend(doors.enter(Visitor::Stranger)),
                    1 if !strangers.is_empty() => {
                        let at = at % strangers.len();
                        let working = strangers[at].begins_work();
                        prop_assert!(!working || !strangers[at].out.is_cancelled());
                    }
                    _ if !strangers.is_empty() => drop(strangers.swap_remove(at % strangers.len())),
                    _ => {}
                }
                let inside = strangers.iter().filter(|place| !place.out.is_cancelled()).count();
                prop_assert_eq!(taken(&doors, Visitor::Stranger), inside);
                prop_assert!(inside <= PLACES_OF_STRANGERS);
                prop_assert!(doors.enter(Visitor::Known(7)).is_some_and(|place| place.begins_work()));
            }
        }
    }
}
