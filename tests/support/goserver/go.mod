module leaderexec.test/goserver

go 1.26.0
