//! Who may access a file of Windows: reads an owner and an access list (DACL) in Microsoft's text form (SDDL, [MS-DTYP]
//! section 2.5.1), and decides. Has no system calls. What it does not understand counts as access for everyone.

/// What another account must not be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ForbiddenAccess {
    /// Read or change a file with a secret.
    Access,
    /// Change a file.
    Change,
    /// Replace or remove what is in a folder. Adding files is allowed, as in a sticky folder of Unix.
    Replace,
}

/// Why a file is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AccessProblem {
    /// Another account owns it, and can change its access list.
    Owner(String),
    /// It has no access list, so everyone has access.
    NoList,
    /// These accounts have access.
    Accounts(Vec<String>),
}

/// The owner and the entries that allow access.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AccessList {
    owner: String,
    /// `None`: there is no list, which allows everything.
    entries: Option<Vec<AccessEntry>>,
}

#[derive(Debug, PartialEq, Eq)]
struct AccessEntry {
    account: String,
    rights: u32,
}

const SYSTEM: &str = "S-1-5-18";
const ADMINISTRATORS: &str = "S-1-5-32-544";
/// The owner of the file, which is checked.
const OWNER_RIGHTS: &str = "S-1-3-4";
/// The owner of files that are created later. No process has this identity.
const CREATOR_OWNER: &str = "S-1-3-0";
/// The installer of Windows itself, which owns the folders of the system.
const TRUSTED_INSTALLER: &str = "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464";

/// Abbreviations of accounts, their identifiers and their English names.
const ABBREVIATIONS: [(&str, &str, &str); 12] = [
    ("SY", SYSTEM, "SYSTEM"),
    ("BA", ADMINISTRATORS, "Administrators"),
    ("OW", OWNER_RIGHTS, "the owner"),
    ("CO", CREATOR_OWNER, "creators"),
    ("WD", "S-1-1-0", "Everyone"),
    ("BU", "S-1-5-32-545", "Users"),
    ("BG", "S-1-5-32-546", "Guests"),
    ("AU", "S-1-5-11", "Authenticated Users"),
    ("IU", "S-1-5-4", "Interactive"),
    ("NU", "S-1-5-2", "Network"),
    ("AN", "S-1-5-7", "Anonymous"),
    ("AC", "S-1-15-2-1", "All application packages"),
];

const DELETE: u32 = 0x0001_0000;
const DELETE_CHILD: u32 = 0x40;
const WRITE: u32 = 0x2 | 0x4;
const READ: u32 = 0x1;
/// To change the access list or the owner, and MAXIMUM_ALLOWED.
const CONTROL: u32 = 0x0004_0000 | 0x0008_0000 | 0x0200_0000;
const GENERIC_ALL: u32 = 0x1000_0000;
const GENERIC_WRITE: u32 = 0x4000_0000;
const GENERIC_READ: u32 = 0x8000_0000;

/// Symbols of rights, [MS-DTYP] section 2.5.1.1.
const RIGHTS: [(&str, u32); 25] = [
    ("GA", GENERIC_ALL),
    ("GX", 0x2000_0000),
    ("GW", GENERIC_WRITE),
    ("GR", GENERIC_READ),
    ("RC", 0x0002_0000),
    ("SD", DELETE),
    ("WD", 0x0004_0000),
    ("WO", 0x0008_0000),
    ("FA", 0x001f_01ff),
    ("FR", 0x0012_0089),
    ("FW", 0x0012_0116),
    ("FX", 0x0012_00a0),
    ("KA", 0x000f_003f),
    ("KR", 0x0002_0019),
    ("KW", 0x0002_0006),
    ("KX", 0x0002_0019),
    ("CC", 0x1),
    ("DC", 0x2),
    ("LC", 0x4),
    ("SW", 0x8),
    ("RP", 0x10),
    ("WP", 0x20),
    ("DT", 0x40),
    ("LO", 0x80),
    ("CR", 0x100),
];

impl ForbiddenAccess {
    const fn rights(self) -> u32 {
        match self {
            Self::Access => READ | WRITE | DELETE | CONTROL | GENERIC_ALL | GENERIC_WRITE | GENERIC_READ,
            Self::Change => WRITE | DELETE | CONTROL | GENERIC_ALL | GENERIC_WRITE,
            Self::Replace => DELETE_CHILD | DELETE | CONTROL | GENERIC_ALL,
        }
    }
}

impl AccessList {
    /// Reads the text form. `identifier` returns the identifier (SID) for an abbreviation that is not in this module.
    ///
    /// `None`: not understood.
    pub(super) fn parse(text: &str, identifier: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let account = |text: &str| match ABBREVIATIONS.iter().find(|(short, ..)| *short == text) {
            Some((_, identifier, _)) => (*identifier).to_owned(),
            None if text.starts_with("S-1-") => text.to_owned(),
            None => identifier(text).unwrap_or_else(|| text.to_owned()),
        };
        let rest = text.strip_prefix("O:")?;
        let end = ["G:", "D:", "S:"].iter().filter_map(|next| rest.find(next)).min().unwrap_or(rest.len());
        let (owner, rest) = rest.split_at_checked(end)?;
        let list = rest.split_once("D:").map(|(_, list)| list);
        let entries = list.and_then(|list| {
            let start = list.find('(')?;
            let flags = list.get(..start)?;
            (!flags.contains("NO_ACCESS_CONTROL")).then(|| entries(list.get(start..).unwrap_or_default()))
        });
        let entries = entries
            .map(|found| found.iter().filter_map(|entry| AccessEntry::parse(entry, &account)).collect());
        Some(Self { owner: account(owner), entries })
    }

    /// Decides whether only the account `user`, administrators and the system can do what is forbidden to others.
    ///
    /// # Errors
    /// Who else can.
    pub(super) fn check(&self, user: &str, forbidden: ForbiddenAccess) -> Result<(), AccessProblem> {
        let is_trusted = |account: &str| {
            account == user
                || [SYSTEM, ADMINISTRATORS, OWNER_RIGHTS, CREATOR_OWNER, TRUSTED_INSTALLER].contains(&account)
        };
        let Some(entries) = &self.entries else { return Err(AccessProblem::NoList) };
        if !is_trusted(&self.owner) {
            return Err(AccessProblem::Owner(self.owner.clone()));
        }
        let mut others: Vec<String> = Vec::new();
        for entry in entries.iter().filter(|entry| entry.rights & forbidden.rights() != 0) {
            if !is_trusted(&entry.account) && !others.contains(&entry.account) {
                others.push(entry.account.clone());
            }
        }
        if others.is_empty() { Ok(()) } else { Err(AccessProblem::Accounts(others)) }
    }
}

impl AccessEntry {
    /// An entry without its parentheses: type, flags, rights, two object types, account. `None` if it allows nothing here.
    fn parse(text: &str, account: &impl Fn(&str) -> String) -> Option<Self> {
        let mut fields = text.split(';');
        let mut field = || fields.next().unwrap_or_default();
        let (kind, flags, rights) = (field(), field(), field());
        field();
        field();
        let denies = matches!(kind, "D" | "OD" | "XD" | "ZD");
        // Concerns only what is created in the folder later.
        let is_inherit_only = pairs(flags).any(|flag| flag == "IO");
        (!denies && !is_inherit_only)
            .then(|| Self { account: account(field()), rights: parse_rights(rights) })
    }
}

/// The English name of a well-known account, after its identifier is known.
pub(super) fn well_known(identifier: &str) -> Option<&'static str> {
    ABBREVIATIONS.iter().find(|(_, known, _)| *known == identifier).map(|(.., name)| *name)
}

/// The contents of the parentheses. Conditions have nested ones, and text in quotes.
fn entries(list: &str) -> Vec<&str> {
    let (mut found, mut depth, mut start, mut quoted) = (Vec::new(), 0_usize, 0, false);
    for (at, c) in list.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '(' if !quoted => {
                depth = depth.saturating_add(1);
                if depth == 1 {
                    start = at.saturating_add(1);
                }
            }
            ')' if !quoted => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    found.extend(list.get(start..at));
                }
            }
            // The list of what is audited follows.
            'S' if depth == 0 => break,
            _ => {}
        }
    }
    found
}

fn parse_rights(text: &str) -> u32 {
    if let Some(digits) = text.strip_prefix("0x") {
        return u32::from_str_radix(digits, 16).unwrap_or(u32::MAX);
    }
    pairs(text).fold(0, |rights, pair| {
        rights | RIGHTS.iter().find(|(symbol, _)| *symbol == pair).map_or(u32::MAX, |(_, right)| *right)
    })
}

/// Symbols of two characters; a last one may be shorter.
fn pairs(text: &str) -> impl Iterator<Item = &str> {
    (0..text.len()).step_by(2).map(move |at| {
        let end = at.saturating_add(2).min(text.len());
        text.get(at..end).unwrap_or("?")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: &str = "S-1-5-21-1-2-3-1001";

    fn problem(text: &str, forbidden: ForbiddenAccess) -> Option<AccessProblem> {
        let local = |short: &str| (short == "LA").then(|| "S-1-5-21-1-2-3-500".to_owned());
        AccessList::parse(text, local).expect(text).check(ME, forbidden).err()
    }

    fn others(accounts: &[&str]) -> Option<AccessProblem> {
        Some(AccessProblem::Accounts(accounts.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn a_file_of_the_users_profile_and_one_of_ssh_are_accepted() {
        for text in [
            // Made by an editor in the user's profile: everything is inherited.
            "O:S-1-5-21-1-2-3-1001G:S-1-5-21-1-2-3-513D:AI(A;ID;FA;;;SY)(A;ID;FA;;;BA)(A;ID;FA;;;S-1-5-21-1-2-3-1001)",
            // Made by this program, or restricted with icacls.
            "O:S-1-5-21-1-2-3-1001D:P(A;;FA;;;S-1-5-21-1-2-3-1001)(A;;FA;;;SY)",
            "O:BAG:SYD:PAI(A;;0x1f01ff;;;SY)(A;;FA;;;BA)(A;;GR;;;OW)S:AI(AU;SA;FA;;;WD)",
            // Others may see that it exists, and its size.
            "O:SYD:(A;;FA;;;SY)(A;;0x120080;;;WD)(A;;FX;;;BU)",
            // What is denied to others allows nothing; what is inherit-only concerns other files.
            "O:S-1-5-21-1-2-3-1001D:(D;;FA;;;WD)(OD;;FA;;;AN)(A;OICIIO;FA;;;WD)(A;;FA;;;SY)",
        ] {
            assert_eq!(problem(text, ForbiddenAccess::Access), None, "{text}");
        }
    }

    #[test]
    fn everyone_else_with_access_is_named_once() {
        for (text, expected) in [
            (
                "O:BAD:(A;;FA;;;SY)(A;;FR;;;WD)(A;ID;0x1200a9;;;BU)(A;;FR;;;WD)",
                others(&["S-1-1-0", "S-1-5-32-545"]),
            ),
            ("O:BAD:(A;;GR;;;S-1-5-21-1-2-3-1002)", others(&["S-1-5-21-1-2-3-1002"])),
            ("O:BAD:(A;;SDRC;;;AU)", others(&["S-1-5-11"])),
            ("O:BAD:(A;;WO;;;AU)", others(&["S-1-5-11"])),
            ("O:BAD:(A;;FR;;;LA)", others(&["S-1-5-21-1-2-3-500"])),
            // A condition, and an abbreviation and rights that are unknown.
            ("O:BAD:(XA;;FR;;;WD;(Member_of {SID(BA)} && Title==\")\"))(A;;FA;;;SY)", others(&["S-1-1-0"])),
            ("O:BAD:(A;;QQ;;;ZZ)", others(&["ZZ"])),
            ("O:BAD:(A;;0xnumber;;;BU)(??;;FR;;;WD)", others(&["S-1-5-32-545", "S-1-1-0"])),
        ] {
            assert_eq!(problem(text, ForbiddenAccess::Access), expected, "{text}");
        }
        assert_eq!(well_known("S-1-1-0"), Some("Everyone"));
        assert_eq!(well_known("S-1-5-21-1-2-3-1002"), None);
    }

    #[test]
    fn a_file_without_an_access_list_or_of_another_owner_is_refused() {
        for text in
            ["O:WDG:WDD:NO_ACCESS_CONTROL", "O:BA", "O:BAD:", "O:BAD:NO_ACCESS_CONTROLS:(AU;SA;FA;;;WD)"]
        {
            assert_eq!(problem(text, ForbiddenAccess::Access), Some(AccessProblem::NoList), "{text}");
        }
        for (text, owner) in [
            ("O:S-1-5-21-1-2-3-1002D:(A;;FA;;;SY)", "S-1-5-21-1-2-3-1002"),
            ("O:LAD:(A;;FA;;;SY)", "S-1-5-21-1-2-3-500"),
            ("O:D:(A;;FA;;;SY)", ""),
        ] {
            assert_eq!(
                problem(text, ForbiddenAccess::Access),
                Some(AccessProblem::Owner(owner.to_owned())),
                "{text}"
            );
        }
        assert_eq!(AccessList::parse("D:(A;;FA;;;SY)", |_| None), None, "without an owner");
    }

    #[test]
    fn a_profile_may_be_read_and_a_folder_may_receive_new_files() {
        let readable = "O:BAD:(A;;FA;;;SY)(A;;0x1200a9;;;BU)";
        let with_new_files = "O:BAD:(A;;FA;;;SY)(A;;0x100026;;;BU)";
        let modifiable = "O:BAD:(A;;FA;;;SY)(A;;0x1301bf;;;AU)";
        for (text, change, replace) in [
            (readable, None, None),
            (with_new_files, others(&["S-1-5-32-545"]), None),
            (modifiable, others(&["S-1-5-11"]), others(&["S-1-5-11"])),
        ] {
            assert_eq!(problem(text, ForbiddenAccess::Change), change, "{text}");
            assert_eq!(problem(text, ForbiddenAccess::Replace), replace, "{text}");
        }
        let of_windows = "O:S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464D:(A;;FA;;;SY)(A;OICIIO;GA;;;CO)";
        assert_eq!(problem(of_windows, ForbiddenAccess::Replace), None);
    }
}
