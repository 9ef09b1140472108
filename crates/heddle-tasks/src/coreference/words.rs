//! The words of the sentences, and which noun each adjective points to.

/// Words that are no nouns. A token below their number is one of them.
pub(super) const WORDS: [&str; 46] = [
    "the", "it", "is", "was", "too", "because", "since", ".", ",", "did", "could", "not", "fit", "in", "hold", "carry",
    "fell", "through", "let", "pass", "see", "over", "under", "catch", "up", "with", "left", "behind", "large",
    "small", "heavy", "weak", "wide", "narrow", "tall", "low", "slow", "fast", "red", "blue", "green", "white",
    "black", "brown", "yellow", "grey",
];

/// Nouns, of which the first few are in use.
pub(super) const NOUNS: [&str; 64] = [
    "trophy",
    "suitcase",
    "box",
    "cart",
    "robot",
    "crane",
    "wagon",
    "statue",
    "basket",
    "piano",
    "barrel",
    "truck",
    "sofa",
    "cabinet",
    "tower",
    "boat",
    "trunk",
    "drum",
    "ladder",
    "bicycle",
    "crate",
    "engine",
    "mirror",
    "tractor",
    "table",
    "balloon",
    "bottle",
    "train",
    "lamp",
    "bucket",
    "shelf",
    "plane",
    "ball",
    "drawer",
    "fence",
    "rocket",
    "chair",
    "cage",
    "wall",
    "tram",
    "carpet",
    "chest",
    "bridge",
    "scooter",
    "kettle",
    "bag",
    "gate",
    "ferry",
    "anchor",
    "pot",
    "arch",
    "canoe",
    "telescope",
    "tin",
    "hedge",
    "taxi",
    "globe",
    "jar",
    "roof",
    "van",
    "cello",
    "case",
    "tent",
    "sledge",
];

/// The colours of the filler.
pub(super) const COLOURS: [&str; 8] = ["red", "blue", "green", "white", "black", "brown", "yellow", "grey"];

/// Two adjectives, and two things that a first noun A may do to a second noun B. In what stands first the first
/// adjective tells of A and the second of B; in what stands second, the other way round.
pub(super) const RELATIONS: [([&str; 2], [&str; 2]); 5] = [
    (["large", "small"], ["did not fit in", "could not hold"]),
    (["heavy", "weak"], ["fell through", "could not carry"]),
    (["wide", "narrow"], ["did not pass through", "did not let in"]),
    (["tall", "low"], ["did not fit under", "could not see over"]),
    (["slow", "fast"], ["could not catch up with", "left behind"]),
];

/// How the parts make a sentence and its question: nouns A and B, what A does (V), the pronoun (P), the adjective (J).
pub(super) const TEMPLATES: [&str; 4] = [
    "the A V the B because P was too J . it is the",
    "the A V the B since P was too J . it is the",
    "the A V the B . P was too J . it is the",
    "because P was too J , the A V the B . it is the",
];
