//! What an adapter may send, and what it is given (IEEE 802.1Q, section 6.9). Pure: only the beginning of a frame is
//! looked at, and the caller makes sure that what was looked at is what goes on.
//!
//! A learning bridge believes the source addresses that it sees; so an adapter sends only from its own. Frames of
//! the port VLAN have no tag on the guest's side, those of the further VLANs always have one.

use frame::device::{Attachment, NetworkSpec};
use frame::mac::Mac;

/// Bytes of addresses and type.
const HEADER: usize = 14;
/// Bytes of a tag.
const TAG: usize = 4;
/// Bytes at the beginning of a frame that the filter looks at.
pub const LOOKED_AT: usize = HEADER + TAG;

/// Type of a frame with a VLAN's tag.
const CUSTOMER_TAG: u16 = 0x8100;
/// Types of tags: of customers, of providers, and those of old equipment for tags within tags.
const TAGS: [u16; 5] = [CUSTOMER_TAG, 0x88a8, 0x9100, 0x9200, 0x9300];
/// The part of a tag that is the VLAN.
const VLAN: u16 = 0x0fff;

/// Why a frame goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// It is shorter than its header.
    Short,
    /// Its source is not the adapter.
    Source,
    /// It is for bridges alone (IEEE 802.1Q, table 8-1), which a guest is none of.
    Reserved,
    /// Its VLAN is not one of the adapter's, or has a tag where it must have none.
    Vlan,
    /// A tag within a tag, or one of a provider.
    Tags,
    /// It is for another station.
    Destination,
}

/// A frame as it goes on: its first `taken` bytes are replaced by `head`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edited {
    /// Which tap of the queue pair it goes to, or came from.
    pub tap: usize,
    head: [u8; LOOKED_AT],
    length: usize,
    /// Bytes of the original that the head stands for.
    pub taken: usize,
}

impl Edited {
    /// What the frame begins with.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        self.head.get(..self.length).unwrap_or_default()
    }

    /// How much further from its beginning the rest of the frame is than before: -4, 0 or 4.
    #[must_use]
    pub const fn shift(&self) -> i16 {
        self.length as i16 - self.taken as i16
    }
}

/// The filter of one adapter.
#[derive(Clone, Debug)]
pub struct Filter {
    mac: Mac,
    port: u16,
    tagged: Vec<u16>,
    attachment: Attachment,
}

/// A frame's beginning, taken apart.
struct Parsed {
    destination: [u8; 6],
    addresses: [u8; 12],
    /// The tag's content, if there is one.
    tag: Option<u16>,
    /// Type of what is in the frame.
    kind: u16,
}

fn parse(frame: &[u8]) -> Result<Parsed, Dropped> {
    let word = |at: usize| frame.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_be_bytes);
    let addresses: [u8; 12] = frame.get(..12).and_then(|bytes| bytes.try_into().ok()).ok_or(Dropped::Short)?;
    let [a, b, c, d, e, f, ..] = addresses;
    let outer = word(12).ok_or(Dropped::Short)?;
    let (tag, kind) = match outer {
        CUSTOMER_TAG => (Some(word(14).ok_or(Dropped::Short)?), word(16).ok_or(Dropped::Short)?),
        _ => (None, outer),
    };
    if TAGS.contains(&kind) {
        return Err(Dropped::Tags);
    }
    Ok(Parsed { destination: [a, b, c, d, e, f], addresses, tag, kind })
}

impl Parsed {
    fn edited(&self, tap: usize, tag: Option<u16>) -> Edited {
        let mut head = [0; LOOKED_AT];
        let tag = tag.map(|tag| (u32::from(CUSTOMER_TAG) << 16 | u32::from(tag)).to_be_bytes());
        let tag = tag.as_ref().map_or(&[][..], |bytes| bytes);
        let kind = self.kind.to_be_bytes();
        let bytes = self.addresses.iter().chain(tag).chain(&kind);
        head.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        let taken = if self.tag.is_some() { LOOKED_AT } else { HEADER };
        Edited { tap, head, length: HEADER + tag.len(), taken }
    }
}

impl Filter {
    /// The filter of an adapter that was declared so.
    #[must_use]
    pub fn new(spec: &NetworkSpec) -> Self {
        Self { mac: spec.mac, port: spec.vlan, tagged: spec.tagged.clone(), attachment: spec.attachment }
    }

    /// Judges a frame that the guest sends by its first [`LOOKED_AT`] bytes, or fewer where it is shorter.
    ///
    /// A tag of VLAN 0 has only a priority: the frame is in the port VLAN (IEEE 802.1Q, section 6.9.1). A tag of the
    /// port VLAN itself is refused: its frames have none.
    ///
    /// # Errors
    /// Why it goes no further.
    pub fn send(&self, frame: &[u8]) -> Result<Edited, Dropped> {
        let parsed = parse(frame)?;
        if parsed.addresses.get(6..) != Some(&self.mac.0) {
            return Err(Dropped::Source);
        }
        if let [0x01, 0x80, 0xc2, 0, 0, 0..=0x0f] = parsed.destination {
            return Err(Dropped::Reserved);
        }
        let vlan = parsed.tag.map_or(0, |tag| tag & VLAN);
        let priority = parsed.tag.map_or(0, |tag| tag & !VLAN);
        let (vlan, tap) = match vlan {
            0 => (self.port, 0),
            other => (other, 1 + self.tagged.iter().position(|vlan| *vlan == other).ok_or(Dropped::Vlan)?),
        };
        Ok(match self.attachment {
            Attachment::Trunk => parsed.edited(0, Some(priority | vlan)),
            Attachment::PerVlan => parsed.edited(tap, None),
        })
    }

    /// Judges a frame that came from tap `tap`, as [`Filter::send`] does.
    ///
    /// # Errors
    /// Why the guest does not get it.
    pub fn receive(&self, tap: usize, frame: &[u8]) -> Result<Edited, Dropped> {
        let parsed = parse(frame)?;
        let [first, ..] = parsed.destination;
        if first & 1 == 0 && parsed.destination != self.mac.0 {
            return Err(Dropped::Destination);
        }
        match (self.attachment, parsed.tag) {
            (Attachment::Trunk, Some(tag)) if tag & VLAN == self.port => Ok(parsed.edited(tap, None)),
            (Attachment::Trunk, Some(tag)) if self.tagged.contains(&(tag & VLAN)) => Ok(parsed.edited(tap, Some(tag))),
            (Attachment::PerVlan, None) if tap == 0 => Ok(parsed.edited(tap, None)),
            (Attachment::PerVlan, None) => {
                let vlan = self.tagged.get(tap - 1).ok_or(Dropped::Vlan)?;
                Ok(parsed.edited(tap, Some(*vlan)))
            }
            (Attachment::Trunk, _) => Err(Dropped::Vlan),
            (Attachment::PerVlan, Some(_)) => Err(Dropped::Tags),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn filter(attachment: Attachment) -> Filter {
        Filter { mac: OWN, port: 10, tagged: vec![20, 30], attachment }
    }

    fn frame(to: [u8; 6], from: [u8; 6], rest: &[u8]) -> Vec<u8> {
        [&to[..], &from, rest].concat()
    }

    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];

    /// The whole frame after the edit.
    fn apply(edited: &Edited, frame: &[u8]) -> Vec<u8> {
        [edited.head(), &frame[edited.taken..]].concat()
    }

    #[test]
    fn a_frame_without_tag_is_in_the_port_vlan() {
        let bare = frame(OTHER, OWN.0, &[8, 0, 0x45, 1, 2, 3]);
        let tagged = frame(OTHER, OWN.0, &[0x81, 0, 0, 10, 8, 0, 0x45, 1, 2, 3]);
        let sent = filter(Attachment::Trunk).send(&bare).unwrap();
        assert_eq!((apply(&sent, &bare), sent.shift(), sent.tap), (tagged.clone(), 4, 0));
        let sent = filter(Attachment::PerVlan).send(&bare).unwrap();
        assert_eq!((apply(&sent, &bare), sent.shift(), sent.tap), (bare.clone(), 0, 0));
        // A tag of VLAN 0 has only a priority.
        let priority = frame(OTHER, OWN.0, &[0x81, 0, 0xa0, 0, 8, 0, 0x45, 1, 2, 3]);
        let sent = filter(Attachment::PerVlan).send(&priority).unwrap();
        assert_eq!((apply(&sent, &priority), sent.shift(), sent.tap), (bare, -4, 0));
        let sent = filter(Attachment::Trunk).send(&priority).unwrap();
        let expected = frame(OTHER, OWN.0, &[0x81, 0, 0xa0, 10, 8, 0, 0x45, 1, 2, 3]);
        assert_eq!((apply(&sent, &priority), sent.shift()), (expected, 0));
        // Its tag is not the guest's to write.
        for attachment in [Attachment::Trunk, Attachment::PerVlan] {
            assert_eq!(filter(attachment).send(&tagged), Err(Dropped::Vlan));
        }
    }

    #[test]
    fn only_declared_vlans_are_sent_with_a_tag() {
        let tagged = |vlan: u16| frame(OTHER, OWN.0, &[&[0x81, 0], &vlan.to_be_bytes()[..], &[8, 0, 7]].concat());
        let one = tagged(0x2000 | 30);
        let sent = filter(Attachment::Trunk).send(&one).unwrap();
        assert_eq!((apply(&sent, &one), sent.tap), (one.clone(), 0));
        let sent = filter(Attachment::PerVlan).send(&one).unwrap();
        assert_eq!((apply(&sent, &one), sent.tap), (frame(OTHER, OWN.0, &[8, 0, 7]), 2));
        for vlan in [1, 10, 11, 21, 4094, 4095] {
            assert_eq!(filter(Attachment::Trunk).send(&tagged(vlan)), Err(Dropped::Vlan), "{vlan}");
        }
    }

    #[test]
    fn forgeries_go_nowhere() {
        for attachment in [Attachment::Trunk, Attachment::PerVlan] {
            let send = |frame: &[u8]| filter(attachment).send(frame);
            assert_eq!(send(&frame(OTHER, OTHER, &[8, 0, 0])), Err(Dropped::Source));
            assert_eq!(send(&frame(OTHER, [255; 6], &[8, 0, 0])), Err(Dropped::Source));
            for inner in TAGS {
                let inner = inner.to_be_bytes();
                let double = frame(OTHER, OWN.0, &[0x81, 0, 0, 20, inner[0], inner[1], 0, 10, 8, 0]);
                assert_eq!(send(&double), Err(Dropped::Tags));
                if inner != [0x81, 0] {
                    assert_eq!(send(&frame(OTHER, OWN.0, &[inner[0], inner[1], 0, 20, 8, 0])), Err(Dropped::Tags));
                }
            }
            assert_eq!(send(&frame([1, 0x80, 0xc2, 0, 0, 0], OWN.0, &[0, 38, 0])), Err(Dropped::Reserved));
            for length in 0..14 {
                assert_eq!(send(&frame(OTHER, OWN.0, &[8, 0])[..length]), Err(Dropped::Short));
            }
            assert_eq!(send(&frame(OTHER, OWN.0, &[0x81, 0, 0, 20, 8])), Err(Dropped::Short));
        }
    }

    #[test]
    fn only_frames_of_its_vlans_for_it_come_in() {
        let trunk = filter(Attachment::Trunk);
        let tagged = |vlan: u8, to: [u8; 6]| frame(to, OTHER, &[0x81, 0, 0, vlan, 8, 0, 7]);
        let port = tagged(10, OWN.0);
        assert_eq!(apply(&trunk.receive(0, &port).unwrap(), &port), frame(OWN.0, OTHER, &[8, 0, 7]));
        let further = tagged(20, [255; 6]);
        assert_eq!(apply(&trunk.receive(0, &further).unwrap(), &further), further);
        assert_eq!(trunk.receive(0, &tagged(40, OWN.0)), Err(Dropped::Vlan));
        assert_eq!(trunk.receive(0, &tagged(0, OWN.0)), Err(Dropped::Vlan));
        assert_eq!(trunk.receive(0, &tagged(10, OTHER)), Err(Dropped::Destination));
        let bare = frame(OWN.0, OTHER, &[8, 0, 7]);
        assert_eq!(trunk.receive(0, &bare), Err(Dropped::Vlan));
        let each = filter(Attachment::PerVlan);
        assert_eq!(apply(&each.receive(0, &bare).unwrap(), &bare), bare);
        assert_eq!(apply(&each.receive(1, &bare).unwrap(), &bare), tagged(20, OWN.0));
        assert_eq!(each.receive(3, &bare), Err(Dropped::Vlan));
        assert_eq!(each.receive(0, &port), Err(Dropped::Tags));
    }

    proptest! {
        #[test]
        fn whatever_is_sent_leaves_from_its_own_address_and_vlans(
            own in any::<bool>(), trunk in any::<bool>(), mut bytes in proptest::collection::vec(any::<u8>(), 0..40),
            kind in proptest::sample::select(&[0x8100u16, 0x88a8, 0x0800, 0x9100][..]), vlan in 0..40u16,
            inner in proptest::sample::select(&[0x8100u16, 0x0800, 0x88a8][..]),
        ) {
            for (at, word) in [(12, kind), (14, vlan), (16, inner)] {
                if let Some(place) = bytes.get_mut(at..at + 2) {
                    place.copy_from_slice(&word.to_be_bytes());
                }
            }
            if let Some(source) = bytes.get_mut(6..12).filter(|_| own) {
                source.copy_from_slice(&OWN.0);
            }
            let attachment = if trunk { Attachment::Trunk } else { Attachment::PerVlan };
            let filter = filter(attachment);
            let looked_at = bytes.get(..LOOKED_AT).unwrap_or(&bytes);
            if let Ok(edited) = filter.send(looked_at) {
                let sent = apply(&edited, &bytes);
                prop_assert_eq!(&sent[6..12], &OWN.0);
                let word = |at: usize| u16::from_be_bytes([sent[at], sent[at + 1]]);
                if trunk {
                    prop_assert_eq!(word(12), 0x8100);
                    prop_assert!([10, 20, 30].contains(&(word(14) & 0xfff)));
                    prop_assert!(!TAGS.contains(&word(16)));
                } else {
                    prop_assert!(edited.tap < 3);
                    prop_assert!(!TAGS.contains(&word(12)));
                }
                prop_assert_eq!(sent.len() as i64 - bytes.len() as i64, i64::from(edited.shift()));
                // What one adapter sends in a VLAN, another of the same VLANs receives as it was meant.
                if sent[0] & 1 == 1 {
                    let back = filter.receive(edited.tap, &sent).unwrap();
                    let back = apply(&back, &sent);
                    let meant = if kind == 0x8100 && vlan == 0 { [&bytes[..12], &bytes[16..]].concat() } else { bytes };
                    prop_assert_eq!(back, meant);
                }
            }
        }
    }
}
