// Serves the named pipe of Windows' ssh-agent, for tests in Wine, and passes each request on to 127.0.0.1, to a port that
// is the only argument. Built and used by scripts/test-platforms alone.
#include <winsock2.h>
#include <windows.h>
#include <stdio.h>
#include <stdlib.h>

static const char NAME[] = "\\\\.\\pipe\\openssh-ssh-agent";
enum { LONGEST = 256 * 1024 };
static char message[4 + LONGEST];

static int read_pipe(HANDLE pipe, char *to, DWORD length) {
    while (length > 0) {
        DWORD count = 0;
        if (!ReadFile(pipe, to, length, &count, NULL) || count == 0) return 0;
        to += count;
        length -= count;
    }
    return 1;
}

static int read_socket(SOCKET agent, char *to, int length) {
    while (length > 0) {
        int count = recv(agent, to, length, 0);
        if (count <= 0) return 0;
        to += count;
        length -= count;
    }
    return 1;
}

// The length of the message whose first four bytes have been read; 0 if it is too long.
static DWORD length_of_message(void) {
    const unsigned char *head = (const unsigned char *)message;
    DWORD length = (DWORD)head[0] << 24 | (DWORD)head[1] << 16 | (DWORD)head[2] << 8 | head[3];
    return length <= LONGEST ? length : 0;
}

static void serve(HANDLE pipe, SOCKET agent) {
    while (read_pipe(pipe, message, 4)) {
        DWORD length = length_of_message(), written = 0;
        if (!length || !read_pipe(pipe, message + 4, length)) return;
        if (send(agent, message, (int)(4 + length), 0) != (int)(4 + length)) return;
        if (!read_socket(agent, message, 4)) return;
        length = length_of_message();
        if (!length || !read_socket(agent, message + 4, (int)length)) return;
        if (!WriteFile(pipe, message, 4 + length, &written, NULL) || written != 4 + length) return;
        FlushFileBuffers(pipe);
    }
}

int main(int count, char **arguments) {
    WSADATA data;
    if (count != 2 || WSAStartup(MAKEWORD(2, 2), &data) != 0) return 2;
    for (;;) {
        HANDLE pipe = CreateNamedPipeA(NAME, PIPE_ACCESS_DUPLEX, PIPE_TYPE_BYTE | PIPE_WAIT, 1, 65536, 65536, 0, NULL);
        if (pipe == INVALID_HANDLE_VALUE) return 1;
        puts("ready");
        fflush(stdout);
        if (!ConnectNamedPipe(pipe, NULL) && GetLastError() != ERROR_PIPE_CONNECTED) return 1;
        SOCKET agent = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
        struct sockaddr_in address = {0};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        address.sin_port = htons((u_short)atoi(arguments[1]));
        if (connect(agent, (struct sockaddr *)&address, sizeof address) == 0) serve(pipe, agent);
        closesocket(agent);
        DisconnectNamedPipe(pipe);
        CloseHandle(pipe);
    }
}
