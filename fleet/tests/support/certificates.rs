//! Certificates for tests, made with openssl.

use std::path::{Path, PathBuf};
use std::process::Command;

use spa_knock_fleet::client::TlsIdentity;

pub struct Certificates {
    pub folder: PathBuf,
    addresses: Vec<String>,
}

impl Certificates {
    /// A CA, a certificate for etcd at 127.0.0.1, and certificates of clients without (`client`) and with (`named`) a
    /// common name.
    pub fn create(folder: &Path) -> Self {
        Self::create_for(folder, &["127.0.0.1"])
    }

    /// The same for etcd at these addresses.
    pub fn create_for(folder: &Path, addresses: &[&str]) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let addresses = addresses.iter().map(|&address| address.to_owned()).collect();
        let certificates = Self { folder: folder.to_owned(), addresses };
        let subject = ["-subj", "/CN=test CA", "-days", "2"];
        certificates.openssl(
            &[&["req", "-x509", "-out", "ca.pem", "-keyout", "ca.key"], &KEY[..], &subject].concat(),
        );
        certificates.issue("server", "/CN=etcd");
        certificates.issue("client", "/");
        certificates.issue("named", "/CN=member");
        certificates
    }

    fn issue(&self, name: &str, subject: &str) {
        let [key, request, certificate] = ["key", "csr", "pem"].map(|end| format!("{name}.{end}"));
        let names: Vec<_> = self.addresses.iter().map(|address| format!("IP:{address}")).collect();
        let extensions =
            format!("subjectAltName=critical,{}\nextendedKeyUsage=serverAuth,clientAuth\n", names.join(","));
        std::fs::write(self.folder.join("extensions"), extensions).unwrap();
        self.openssl(&[&["req", "-out", &request, "-keyout", &key, "-subj", subject], &KEY[..]].concat());
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-out",
            &certificate,
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-extfile",
            "extensions",
            "-days",
            "2",
        ]);
    }

    /// The identity of a client.
    pub fn identity(&self, name: &str) -> TlsIdentity {
        let read = |file: &str| std::fs::read(self.folder.join(file)).unwrap();
        let [certificate, key] = ["pem", "key"].map(|end| read(&format!("{name}.{end}")));
        TlsIdentity::from_pem(&read("ca.pem"), &certificate, &key).unwrap()
    }

    fn openssl(&self, arguments: &[&str]) {
        let output = Command::new("openssl").args(arguments).current_dir(&self.folder).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

const KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
