//! Huffman-coded strings: RFC 7541, section 5.2 and appendix B. Read only: what we write is not coded, which costs
//! a few bytes the first time that a header passes and nothing after that.

use std::sync::LazyLock;

/// Bits of each symbol's code; the last is the end of string. The code is canonical: codes of one length follow each
/// other in the order of their symbols.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, //
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, //
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, //
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, //
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, //
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, //
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, //
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, //
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, //
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, //
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, //
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, //
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, //
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, //
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, //
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, //
    30,
];
const END_OF_STRING: usize = 256;

/// A code that is no code, or padding that is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// What four more bits lead to from a state: another state, and at most one symbol on the way.
#[derive(Clone, Copy, Default)]
struct Step {
    state: u16,
    symbol: Option<u8>,
    fails: bool,
}

struct Machine {
    steps: Vec<[Step; 16]>,
    /// States in which a string may end: up to seven bits of padding, all ones.
    ends: Vec<bool>,
}

static MACHINE: LazyLock<Machine> = LazyLock::new(Machine::build);

/// A node of the code's tree while the machine is built.
#[derive(Clone, Copy)]
enum Child {
    None,
    Node(usize),
    Symbol(usize),
}

impl Machine {
    fn build() -> Self {
        let tree = tree();
        let mut steps = vec![[Step::default(); 16]; tree.len()];
        for (state, of_state) in steps.iter_mut().enumerate() {
            for (bits, step) in of_state.iter_mut().enumerate() {
                *step = walk(&tree, state, bits);
            }
        }
        let mut ends = vec![false; tree.len()];
        let mut node = 0;
        for _ in 0..8 {
            ends[node] = true;
            match tree[node][1] {
                Child::Node(next) => node = next,
                Child::None | Child::Symbol(_) => break,
            }
        }
        Self { steps, ends }
    }
}

fn tree() -> Vec<[Child; 2]> {
    let mut order: Vec<usize> = (0..LENGTHS.len()).collect();
    order.sort_by_key(|symbol| (LENGTHS[*symbol], *symbol));
    let mut tree = vec![[Child::None; 2]];
    let (mut code, mut before) = (0u32, LENGTHS[order[0]]);
    for (number, symbol) in order.into_iter().enumerate() {
        let length = LENGTHS[symbol];
        if number > 0 {
            code = (code + 1) << (length - before);
        }
        before = length;
        let mut node = 0;
        for bit in (0..length).rev() {
            let side = (code >> bit & 1) as usize;
            if bit == 0 {
                tree[node][side] = Child::Symbol(symbol);
            } else if let Child::Node(next) = tree[node][side] {
                node = next;
            } else {
                tree.push([Child::None; 2]);
                let next = tree.len() - 1;
                tree[node][side] = Child::Node(next);
                node = next;
            }
        }
    }
    tree
}

fn walk(tree: &[[Child; 2]], from: usize, bits: usize) -> Step {
    let (mut node, mut symbol) = (from, None);
    for bit in (0..4).rev() {
        match tree[node][bits >> bit & 1] {
            Child::Node(next) => node = next,
            Child::Symbol(END_OF_STRING) | Child::None => return Step { fails: true, ..Step::default() },
            Child::Symbol(found) => {
                symbol = u8::try_from(found).ok();
                node = 0;
            }
        }
    }
    Step { state: u16::try_from(node).unwrap_or(0), symbol, fails: false }
}

/// Appends the text of a coded string.
pub(super) fn decode(coded: &[u8], text: &mut Vec<u8>) -> Result<(), Malformed> {
    let machine = &*MACHINE;
    let mut state = 0;
    for byte in coded {
        for bits in [byte >> 4, byte & 15] {
            let step = machine.steps[state][usize::from(bits)];
            if step.fails {
                return Err(Malformed);
            }
            text.extend(step.symbol);
            state = usize::from(step.state);
        }
    }
    if machine.ends[state] { Ok(()) } else { Err(Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(coded: &[u8]) -> Result<String, Malformed> {
        let mut text = Vec::new();
        decode(coded, &mut text).map(|()| String::from_utf8_lossy(&text).into_owned())
    }

    #[test]
    fn the_examples_of_the_standard() {
        let coded = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(text(&coded).unwrap(), "www.example.com");
        assert_eq!(text(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]).unwrap(), "no-cache");
        assert_eq!(text(&[0x64, 0x02]).unwrap(), "302");
        assert_eq!(text(&[]).unwrap(), "");
    }

    #[test]
    fn padding_is_at_most_seven_ones() {
        assert_eq!(text(&[0x64, 0x02, 0xff]), Err(Malformed), "eight ones");
        assert_eq!(text(&[0x60]), Err(Malformed), "zeros");
        assert_eq!(text(&[0xff, 0xff, 0xff, 0xff]), Err(Malformed), "the end of string");
    }
}
