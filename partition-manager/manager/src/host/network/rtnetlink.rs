//! Network interfaces, as the kernel is asked about them and told (rtnetlink(7)).

use frame::mac::Mac;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::io;
use std::os::fd::OwnedFd;

// Linux, include/uapi/linux/rtnetlink.h and netlink.h.
const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const SET_LINK: u16 = 19;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
const DUMP: u16 = 0x300;

// include/uapi/linux/if_link.h.
const ADDRESS: u16 = 1;
const NAME: u16 = 3;
const MASTER: u16 = 10;
const LINK_INFO: u16 = 18;
const ALIAS: u16 = 20;
const FAMILY_SPECIFIC: u16 = 26;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const BRIDGE_VLAN_FILTERING: u16 = 7;
const BRIDGE_SNOOPING: u16 = 23;
const BRIDGE_PORT_VLAN: u16 = 39;

// include/uapi/linux/if_bridge.h.
const PORT_VLAN: u16 = 2;
const PORT_VLAN_FLAG: u16 = 2;
const UNTAGGED_FLAG: u16 = 4;

const UP: u32 = libc::IFF_UP as u32;
/// The kernel gives parts of a dump in pieces of at most this size.
const PIECE: usize = 64 << 10;

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What somebody wrote to it for people to read.
    pub alias: Option<String>,
    /// Its address.
    pub mac: Option<Mac>,
    /// The interface that it is a port of.
    pub master: Option<u32>,
    /// What it is, such as `bridge` or `tun`.
    pub kind: Option<String>,
    /// Of a bridge: whether it filters VLANs.
    pub filters: bool,
}

/// How a port has a VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tagging {
    /// Its frames have tags.
    Tagged,
    /// Its frames have none, and those without one are of this VLAN.
    Native,
}

/// A connection to the kernel.
#[derive(Debug)]
pub struct Route {
    socket: OwnedFd,
    sequence: u32,
}

/// A request under construction.
struct Message(Vec<u8>);

impl Message {
    /// A request of type `kind` about the interface `index`; 0 stands for none.
    fn new(kind: u16, flags: u16, family: u8, index: u32, state: u32) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((REQUEST | flags).to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend([family, 0, 0, 0]);
        bytes.extend(index.to_ne_bytes());
        bytes.extend(state.to_ne_bytes());
        bytes.extend(state.to_ne_bytes());
        Self(bytes)
    }

    fn put(mut self, kind: u16, data: &[u8]) -> Self {
        let length = u16::try_from(data.len() + 4).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn text(self, kind: u16, text: &str) -> Self {
        self.put(kind, &[text.as_bytes(), &[0]].concat())
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0.splice(..4, length.to_ne_bytes());
        self.0.splice(8..12, sequence.to_ne_bytes());
        self.0
    }
}

/// Attributes one after the other, as bytes.
fn attributes(list: &[(u16, &[u8])]) -> Vec<u8> {
    let all = Message(vec![]);
    list.iter().fold(all, |all, (kind, data)| all.put(*kind, data)).0
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// The attributes in `bytes`, as far as they are whole.
fn each(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(word(bytes, 0)?);
        // The two highest bits say how the data is kept, not what it is.
        let kind = word(bytes, 2)? & 0x3fff;
        let data = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, data))
    })
}

fn string(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

fn link(body: &[u8]) -> Option<Link> {
    let mut link = Link { index: long(body, 4)?, ..Link::default() };
    for (kind, data) in each(body.get(16..)?) {
        match kind {
            NAME => link.name = string(data),
            ALIAS => link.alias = Some(string(data)),
            ADDRESS => link.mac = data.try_into().ok().map(Mac),
            MASTER => link.master = long(data, 0),
            LINK_INFO => {
                for (kind, data) in each(data) {
                    match kind {
                        INFO_KIND => link.kind = Some(string(data)),
                        INFO_DATA => {
                            link.filters = each(data)
                                .any(|(kind, data)| kind == BRIDGE_VLAN_FILTERING && data.first() == Some(&1));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(link)
}

impl Route {
    /// Connects.
    ///
    /// # Errors
    /// What the host says.
    pub fn open() -> io::Result<Self> {
        // Protocol 0 of this family is NETLINK_ROUTE.
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends a request and takes its answers until the last; each of `NEW_LINK` is given to `take`.
    fn ask(&mut self, message: Message, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = message.finish(self.sequence);
        rustix::net::sendto(&self.socket, &bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut piece = vec![0; PIECE];
        loop {
            let (length, _) = rustix::net::recv(&self.socket, piece.as_mut_slice(), RecvFlags::empty())?;
            let mut rest = piece.get(..length).unwrap_or_default();
            while let (Some(length), Some(kind), Some(sequence)) = (long(rest, 0), word(rest, 4), long(rest, 8)) {
                let Some(body) = rest.get(16..length as usize) else { break };
                rest = rest.get((length as usize).next_multiple_of(4)..).unwrap_or_default();
                // An answer to a request that was given up.
                if sequence != self.sequence {
                    continue;
                }
                match kind {
                    NEW_LINK => take(body),
                    DONE => return Ok(()),
                    ERROR => {
                        return match long(body, 0).map_or(0, |code| (code as i32).wrapping_neg()) {
                            0 => Ok(()),
                            code => Err(io::Error::from_raw_os_error(code)),
                        };
                    }
                    _ => {}
                }
            }
        }
    }

    fn tell(&mut self, message: Message) -> io::Result<()> {
        self.ask(message, |_| {})
    }

    /// All interfaces.
    ///
    /// # Errors
    /// What the host says.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let mut links = vec![];
        self.ask(Message::new(GET_LINK, DUMP, 0, 0, 0), |body| links.extend(link(body)))?;
        Ok(links)
    }

    /// The interface of that name.
    ///
    /// # Errors
    /// What the host says.
    pub fn find(&mut self, name: &str) -> io::Result<Option<Link>> {
        Ok(self.links()?.into_iter().find(|link| link.name == name))
    }

    /// Makes a bridge that is not yet up. With `filters`, it filters VLANs, and its ports have none until they are given
    /// some.
    ///
    /// # Errors
    /// What the host says; `EEXIST` when an interface has the name, `EOPNOTSUPP` when the kernel cannot.
    pub fn add_bridge(&mut self, name: &str, mac: Mac, filters: bool) -> io::Result<()> {
        // Every frame for a group goes to all of its VLAN, as on PowerVM's switch.
        let mut data = attributes(&[(BRIDGE_SNOOPING, &[0])]);
        if filters {
            data.extend(attributes(&[(BRIDGE_VLAN_FILTERING, &[1]), (BRIDGE_PORT_VLAN, &[0, 0])]));
        }
        let info = attributes(&[(INFO_KIND, b"bridge"), (INFO_DATA, &data)]);
        let message = Message::new(NEW_LINK, ACKNOWLEDGE | CREATE | EXCLUSIVE, 0, 0, 0);
        self.tell(message.text(NAME, name).put(ADDRESS, &mac.0).put(LINK_INFO, &info))
    }

    /// Writes to an interface what people read.
    ///
    /// # Errors
    /// What the host says.
    pub fn alias(&mut self, index: u32, text: &str) -> io::Result<()> {
        self.tell(Message::new(SET_LINK, ACKNOWLEDGE, 0, index, 0).put(ALIAS, text.as_bytes()))
    }

    /// Switches an interface on.
    ///
    /// # Errors
    /// What the host says.
    pub fn up(&mut self, index: u32) -> io::Result<()> {
        self.tell(Message::new(SET_LINK, ACKNOWLEDGE, 0, index, UP))
    }

    /// Makes an interface a port of a bridge.
    ///
    /// # Errors
    /// What the host says.
    pub fn join(&mut self, index: u32, bridge: u32) -> io::Result<()> {
        self.tell(Message::new(SET_LINK, ACKNOWLEDGE, 0, index, 0).put(MASTER, &bridge.to_ne_bytes()))
    }

    /// Gives a port of a filtering bridge a VLAN.
    ///
    /// # Errors
    /// What the host says.
    pub fn allow(&mut self, index: u32, vlan: u16, tagging: Tagging) -> io::Result<()> {
        let flags = match tagging {
            Tagging::Tagged => 0,
            Tagging::Native => PORT_VLAN_FLAG | UNTAGGED_FLAG,
        };
        let info = [flags.to_ne_bytes(), vlan.to_ne_bytes()].concat();
        let specific = attributes(&[(PORT_VLAN, &info)]);
        let bridge = libc::AF_BRIDGE as u8;
        self.tell(Message::new(SET_LINK, ACKNOWLEDGE, bridge, index, 0).put(FAMILY_SPECIFIC, &specific))
    }

    /// Removes an interface.
    ///
    /// # Errors
    /// What the host says.
    pub fn delete(&mut self, index: u32) -> io::Result<()> {
        self.tell(Message::new(DELETE_LINK, ACKNOWLEDGE, 0, index, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_read_from_its_attributes() {
        let data = attributes(&[(BRIDGE_VLAN_FILTERING, &[1])]);
        let info = attributes(&[(INFO_KIND, b"bridge\0"), (INFO_DATA, &data)]);
        let message = Message::new(NEW_LINK, 0, 0, 7, 0).text(NAME, "lan").text(ALIAS, "x y").put(LINK_INFO, &info);
        let message = message.put(ADDRESS, &[2, 0, 0, 0, 0, 1]).put(MASTER, &9u32.to_ne_bytes());
        let bytes = message.finish(3);
        assert_eq!(long(&bytes, 0), Some(bytes.len() as u32));
        assert_eq!(long(&bytes, 8), Some(3));
        let expected = Link {
            index: 7,
            name: "lan".into(),
            alias: Some("x y".into()),
            mac: Some(Mac([2, 0, 0, 0, 0, 1])),
            master: Some(9),
            kind: Some("bridge".into()),
            filters: true,
        };
        assert_eq!(link(&bytes[16..]), Some(expected));
    }

    #[test]
    fn attributes_that_are_cut_short_end_the_list() {
        let whole = attributes(&[(1, b"abc"), (2, b"defgh")]);
        for length in 0..whole.len() {
            for (kind, data) in each(&whole[..length]) {
                assert!((kind, data) == (1, b"abc") || (kind, data) == (2, b"defgh"));
            }
        }
        assert_eq!(each(&[0; 8]).count(), 0);
    }

    #[test]
    fn the_kernel_lists_its_interfaces() {
        let links = Route::open().unwrap().links().unwrap();
        assert!(links.iter().any(|link| link.name == "lo" && link.index == 1), "{links:?}");
    }
}
