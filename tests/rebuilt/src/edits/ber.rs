//! Edits of trees in BER and DER: certificates and signed messages.

use crate::der::{element, open};
use crate::dice::Dice;

/// An element.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Node {
    /// An element with octets. An OCTET STRING that holds elements is one of these.
    Leaf(u8, Vec<u8>),
    /// A constructed element, of indefinite length if the flag is set.
    Tree(u8, bool, Vec<Node>),
}

/// Reads elements one after the other, to the end of the bytes.
pub fn parse(bytes: &[u8]) -> Option<Vec<Node>> {
    let mut rest = bytes;
    let nodes = siblings(&mut rest, false)?;
    rest.is_empty().then_some(nodes)
}

fn siblings(rest: &mut &[u8], is_open: bool) -> Option<Vec<Node>> {
    let mut nodes = Vec::new();
    while let [tag, first, after @ ..] = *rest {
        let (tag, first) = (*tag, *first);
        *rest = after;
        if is_open && (tag, first) == (0, 0) {
            return Some(nodes);
        }
        if first == 0x80 {
            nodes.push(Node::Tree(tag, true, siblings(rest, true)?));
            continue;
        }
        let mut length = usize::from(first);
        if first > 0x80 {
            let (octets, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
            length = octets
                .iter()
                .fold(0, |sum, octet| sum << 8 | usize::from(*octet));
            *rest = after;
        }
        let (content, after) = rest.split_at_checked(length)?;
        *rest = after;
        nodes.push(if tag & 0x20 == 0 {
            Node::Leaf(tag, content.to_vec())
        } else {
            Node::Tree(tag, false, siblings(&mut &content[..], false)?)
        });
    }
    (!is_open && rest.is_empty()).then_some(nodes)
}

/// Returns the elements one after the other.
pub fn bytes(nodes: &[Node]) -> Vec<u8> {
    let write = |node: &Node| match node {
        Node::Leaf(tag, content) => element(*tag, &[content]),
        Node::Tree(tag, false, children) => element(*tag, &[&bytes(children)]),
        Node::Tree(tag, true, children) => open(*tag, &[&bytes(children)]),
    };
    nodes.iter().flat_map(write).collect()
}

/// Returns a document with one to three edits.
pub fn edited(document: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut nodes = parse(document).expect("elements");
    for _ in 0..=dice.roll(3) {
        edit(&mut nodes, dice);
    }
    bytes(&nodes)
}

/// Makes one edit at a level that the dice choose.
fn edit(nodes: &mut Vec<Node>, dice: &mut Dice) {
    if nodes.is_empty() {
        nodes.push(Node::Leaf(4, vec![dice.byte()]));
        return;
    }
    let (at, other) = (dice.roll(nodes.len()), dice.roll(nodes.len()));
    // Go deeper most of the time: most elements are deep.
    if !dice.one_in(5)
        && let Node::Tree(_, _, children) = &mut nodes[at]
    {
        return edit(children, dice);
    }
    match dice.roll(9) {
        0 => drop(nodes.remove(at)),
        1 => nodes.insert(other, nodes[at].clone()),
        2 => nodes.swap(at, other),
        3 => nodes[at] = nodes[other].clone(),
        4 => match &mut nodes[at] {
            Node::Leaf(tag, _) | Node::Tree(tag, _, _) => *tag ^= 1 << dice.roll(8),
        },
        5 => {
            let wrapped = Node::Tree(0x30, false, vec![nodes[at].clone()]);
            nodes[at] = wrapped;
        }
        6 => reform(&mut nodes[at], dice),
        _ => match &mut nodes[at] {
            Node::Leaf(_, content) => super::bend(content, dice),
            Node::Tree(_, is_open, _) => *is_open = !*is_open,
        },
    }
}

/// Writes an element in another form that BER allows: a string in segments, or of another length.
fn reform(node: &mut Node, dice: &mut Dice) {
    *node = match node {
        Node::Leaf(tag, content) => {
            let size = 1 + dice.roll(content.len().max(1));
            let segment = |part: &[u8]| Node::Leaf(*tag, part.to_vec());
            let segments = content.chunks(size).map(segment).collect();
            Node::Tree(*tag | 0x20, dice.one_in(2), segments)
        }
        Node::Tree(tag, is_open, children) => Node::Tree(*tag, !*is_open, children.clone()),
    };
}
