module leaderexec.test/gochild

go 1.24
