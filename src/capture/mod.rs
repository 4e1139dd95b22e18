//! Where datagrams come from: libpcap or a UDP socket.
