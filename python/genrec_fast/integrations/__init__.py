"""Other people's libraries, made fast or served: each module needs the library that it is named after."""
